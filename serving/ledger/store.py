"""The queryable ledger in SQLite or PostgreSQL: journal lines go in, rows come out.

One code for both: SQLAlchemy Core and ``ON CONFLICT``. Writers (loaders) take turns through a lock of the database;
readers are never blocked (WAL on SQLite, MVCC on PostgreSQL). The request path never touches this module.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Engine, RowMapping, Select, Table, create_engine, event, func, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from serving.ledger.errors import StoreError
from serving.ledger.loading import LoadReport, load_directory
from serving.ledger.records import AttemptLine, QuoteLine, RejectionLine
from serving.ledger.schema import metadata, requests, usd_committed

# Key of the advisory lock that PostgreSQL loaders take turns by; any number that nobody else uses would do.
_ADVISORY_KEY = 0x62617365_6C6F6164  # "baseload"
_BUSY_S_MAX = 60.0


class Store:
    """A ledger database by URL: ``sqlite:///path`` or ``postgresql+psycopg://user@host/name``.

    Every method raises ``StoreError``, which names the database (never its password), when it cannot do its work.
    """

    def __init__(self, url: str) -> None:
        """Does not connect yet; an unknown URL or a missing driver shows here."""
        try:
            parsed = make_url(url)
            if parsed.drivername in ("postgresql", "postgres"):
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.name = parsed.render_as_string(hide_password=True)
            if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
                raise StoreError(f"{self.name}: the ledger knows sqlite:///… and postgresql+psycopg://…")
            self.dialect: Literal["sqlite", "postgresql"] = "sqlite" if parsed.drivername == "sqlite" else "postgresql"
            self._file = Path(parsed.database) if self.dialect == "sqlite" and parsed.database else None
            timeout: dict[str, Any] = {"timeout": _BUSY_S_MAX} if self.dialect == "sqlite" else {"connect_timeout": 10}
            self.engine = create_engine(parsed, connect_args=timeout, json_serializer=_json)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            raise StoreError(f"database URL {url.split('@')[-1]!r}: {error}") from error
        except ModuleNotFoundError as error:
            raise StoreError(f"{self.name}: no driver ({error}); install baseload[postgres]") from error
        if self.dialect == "sqlite":
            _control_sqlite_transactions(self.engine)

    def create_schema(self) -> None:
        """Create what is missing: a SQLite file's directory, tables, indexes. Safe to call from many processes."""
        if self._file is not None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"{self.name}: {error}") from error
            self._use_wal()
        with self.writing() as connection:
            metadata.create_all(connection)

    def load(self, directory: Path | str, remove_loaded: bool = False, batch_bytes: int = 2**20) -> LoadReport:
        """Load the new lines of every journal file in ``directory``: see ``loading.load_directory``.

        ``remove_loaded`` deletes files of dead writers once they are loaded to the end. Also raises ``JournalError``.
        """
        return load_directory(self, Path(directory), remove_loaded=remove_loaded, batch_bytes=batch_bytes)

    def spent_usd(self, since_s: float) -> dict[tuple[str, str], float]:
        """Avoidable USD by (tenant, writer) of requests begun at or after ``since_s``, for budgets.

        Interrupted and open requests count at their estimate: money that may be gone is treated as gone.
        """
        query = (
            select(requests.c.tenant, requests.c.writer, func.sum(usd_committed()))
            .where(requests.c.at_s >= since_s)
            .group_by(requests.c.tenant, requests.c.writer)
        )
        with self.reading() as connection:
            return {(tenant, writer): float(usd) for tenant, writer, usd in connection.execute(query)}

    def decision(self, request_id: str) -> dict[str, Any] | None:
        """All that is known of a request: its row, ``merit_order``, ``rejected``, ``attempts``; None if unknown."""
        with self.reading() as connection:
            row = connection.execute(select(requests).where(requests.c.id == request_id)).mappings().first()
            if row is None:
                return None

            kinds = {"merit_order": QuoteLine, "rejected": RejectionLine, "attempts": AttemptLine}
            lists = {
                name: [msgspec.structs.asdict(line) for line in msgspec.convert(row[name], list[kind])]  # type: ignore[valid-type]
                for name, kind in kinds.items()
            }
            return {**row, **lists}

    def stream(self, query: Select[Any], rows: int) -> Generator[Sequence[RowMapping]]:
        """Result of ``query`` in lists of up to ``rows`` rows, never more of it in memory."""
        with (
            self.reading() as connection,
            connection.execution_options(yield_per=rows).execute(query) as result,  # closed if the reader stops early
        ):
            yield from result.mappings().partitions()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An insert of this dialect, the kind that can say ``on_conflict_…``."""
        return sqlite.insert(table) if self.dialect == "sqlite" else postgresql.insert(table)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction on one snapshot."""
        with self._named_errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction; writers take turns, so nothing a writer has read can change under it."""
        with self._named_errors(), self.engine.connect() as connection:
            connection.execution_options(ledger_begin="BEGIN IMMEDIATE")
            with connection.begin():
                if self.dialect == "postgresql":
                    connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_KEY)))
                yield connection

    def _use_wal(self) -> None:
        """Switch a SQLite file to WAL; SQLite answers "locked" at once while another process does the same."""
        deadline_s = time.monotonic() + _BUSY_S_MAX
        while True:
            try:
                with self._named_errors(), self.engine.connect() as connection:
                    connection.execution_options(ledger_begin="").execute(text("PRAGMA journal_mode=WAL"))
                return
            except StoreError as error:
                if "locked" not in str(error) or time.monotonic() >= deadline_s:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StoreError(f"{self.name}: {' '.join(str(cause).split())}") from error


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _control_sqlite_transactions(engine: Engine) -> None:
    """Begin transactions ourselves: the driver would begin them late and shared, and loaders would run into each other.

    ``synchronous=FULL`` because a loaded journal file may be deleted: its rows must be on the disk by then.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        statement = connection.get_execution_options().get("ledger_begin", "BEGIN")
        if statement:
            connection.exec_driver_sql(statement)
