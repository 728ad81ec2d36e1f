"""The ``baseload`` command, also ``python -m serving``: the command line, and one line where Ctrl-C comes while it loads."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Exit status 130 after Ctrl-C, whenever it comes."""
    try:
        from serving.cli import app

        app()
    except BaseException as error:
        # Imported here, since Ctrl-C during an import above this function would end in a traceback.
        from serving.commands.stopping import status_of

        status = status_of(error)
        if status is None:
            raise
        sys.stderr.write("baseload: stopped\n")
        raise SystemExit(status) from None


if __name__ == "__main__":
    main()
