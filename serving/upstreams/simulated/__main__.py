"""``python -m serving.upstreams.simulated``."""

import sys

from serving.upstreams.simulated.server import main

if __name__ == "__main__":
    sys.exit(main())
