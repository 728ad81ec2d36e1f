"""From journal files into the store: every complete line exactly once, whoever loads and however often.

The offset of a file is committed in the same transaction as the rows of its lines, and loaders take turns, so a crash
or a second loader can neither repeat nor skip a line. Writers are never made to wait: files are only read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import Connection, delete, select, update

from serving.ledger.errors import JournalError
from serving.ledger.records import Begin, End, decode
from serving.ledger.schema import INTERRUPTED, OPEN, journal_files, requests
from serving.ledger.segments import Segment, is_live, list_segments, remove_stale_lock

if TYPE_CHECKING:
    from serving.ledger.store import Store

_IDS_PER_QUERY = 5_000  # SQLite takes at most 32,766 parameters in one statement


class LoadReport(NamedTuple):
    """What one load found: new begins and ends, requests whose writer is gone, lines that are no record, torn tails."""

    rows_begun: int = 0
    rows_ended: int = 0
    rows_interrupted: int = 0
    lines_bad: int = 0
    torn: int = 0

    def plus(self, other: LoadReport) -> LoadReport:
        """Sum of both, field by field."""
        return LoadReport(*(mine + its for mine, its in zip(self, other, strict=True)))


def load_directory(store: Store, directory: Path, *, remove_loaded: bool, batch_bytes: int) -> LoadReport:
    """Load all complete lines of all journal files; mark what dead writers left open.

    Raises ``JournalError`` for an unreadable directory or file, ``StoreError`` for the database.
    """
    # First who is dead, then what there is: a writer found dead can add nothing to what is listed after.
    live = {segment.incarnation: is_live(directory, segment) for segment in list_segments(directory)}
    dead = {incarnation for incarnation, lives in live.items() if not lives}
    segments = list_segments(directory)
    with store.reading() as connection:
        known = {row.name: row.offset_bytes + row.torn_bytes for row in connection.execute(select(journal_files))}
    report = LoadReport()
    for segment in segments:
        if _size_bytes(segment.path) != known.get(segment.path.name, 0):
            report = report.plus(_load_segment(store, segment, segment.incarnation in dead, batch_bytes))
    # Only incarnations with files here are judged: other directories have other loaders.
    if dead:
        report = report.plus(LoadReport(rows_interrupted=_interrupt(store, dead)))
    if remove_loaded:
        _remove(store, directory, [segment for segment in segments if segment.incarnation in dead])
    return report


def _load_segment(store: Store, segment: Segment, dead: bool, batch_bytes: int) -> LoadReport:
    """Load one file from its offset to its last complete line, one transaction per batch."""
    report = LoadReport()
    name = segment.path.name
    while True:
        with store.writing() as connection:
            connection.execute(store.insert(journal_files).on_conflict_do_nothing(), {"name": name})
            this_file = journal_files.c.name == name
            offset, torn_bytes = connection.execute(
                select(journal_files.c.offset_bytes, journal_files.c.torn_bytes).where(this_file)
            ).one()
            lines, tail_bytes = _read_lines(segment.path, offset, batch_bytes)
            if lines:
                report = report.plus(_apply(store, connection, segment, lines[:-1].split(b"\n")))
                connection.execute(
                    update(journal_files).where(this_file).values(offset_bytes=offset + len(lines), torn_bytes=0)
                )
                continue
            if dead and tail_bytes != torn_bytes:
                report = report.plus(LoadReport(torn=1 if tail_bytes else 0))
                connection.execute(update(journal_files).where(this_file).values(torn_bytes=tail_bytes))
            return report


def _read_lines(path: Path, offset_bytes: int, batch_bytes: int) -> tuple[bytes, int]:
    """Complete lines from ``offset_bytes`` on, about ``batch_bytes`` long; if none, the length of the torn rest."""
    try:
        with path.open("rb") as file:
            file.seek(offset_bytes)
            data = b""
            while part := file.read(batch_bytes):
                data += part
                if end := data.rfind(b"\n") + 1:
                    return data[:end], 0
            return b"", len(data)
    except FileNotFoundError:  # another loader has loaded and removed it
        return b"", 0
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from error


def _apply(store: Store, connection: Connection, segment: Segment, lines: list[bytes]) -> LoadReport:
    """Rows of ``lines``. The first begin and the first end of an id count, whatever order they come in."""
    begins: dict[str, Begin] = {}
    ends: dict[str, End] = {}
    lines_bad = 0
    for line in lines:
        try:
            record = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            lines_bad += 1
            continue
        if isinstance(record, Begin):
            begins.setdefault(record.id, record)
        else:
            ends.setdefault(record.id, record)
    known = set()
    for row in _known(connection, [*begins.keys() | ends.keys()]):
        known.add(row.id)
        if row.begun_s is not None:
            begins.pop(row.id, None)
        if row.ended_s is not None:
            ends.pop(row.id, None)
    # Most requests begin and end within one batch: one row then, at half the price of an insert and an update.
    whole = begins.keys() & ends.keys()
    whole -= known
    if whole:
        connection.execute(
            store.insert(requests), [_whole_row(begins[i], ends[i], segment) for i in begins if i in whole]
        )
    begun = [_begin_row(begin, segment) for i, begin in begins.items() if i not in whole]
    _upsert(store, connection, begun, keep={"status"})
    _upsert(
        store, connection, [_end_row(e) for i, e in ends.items() if i not in whole], keep={"at_s", "hour_s", "writer"}
    )
    return LoadReport(rows_begun=len(begins), rows_ended=len(ends), lines_bad=lines_bad)


def _known(connection: Connection, ids: list[str]) -> Iterable[Any]:
    columns = (requests.c.id, requests.c.begun_s, requests.c.ended_s)
    for start in range(0, len(ids), _IDS_PER_QUERY):
        part = list(itertools.islice(ids, start, start + _IDS_PER_QUERY))
        yield from connection.execute(select(*columns).where(requests.c.id.in_(part))).all()


def _upsert(store: Store, connection: Connection, rows: list[dict[str, Any]], keep: set[str]) -> None:
    """Insert request rows; where one exists, set all but ``keep``, which the other record has set already."""
    if not rows:
        return
    statement = store.insert(requests)
    changed = {name: statement.excluded[name] for name in rows[0] if name != "id" and name not in keep}
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed), rows)


def _begin_row(begin: Begin, segment: Segment) -> dict[str, Any]:
    return {
        "id": begin.id,
        "status": OPEN,
        "at_s": begin.at_s,
        "hour_s": int(begin.at_s // 3600) * 3600,
        "incarnation": segment.incarnation,
        "begun_s": begin.at_s,
        "writer": begin.writer,
        "tenant": begin.tenant,
        "service_class": begin.service_class,
        "model_requested": begin.model_requested,
        "session": begin.session,
        "zones": begin.zones,
        "labels": begin.labels,
        "stream": begin.stream,
        "market_version": begin.market_version,
        "difficulty": begin.difficulty,
        "input_tokens_estimate": begin.input_tokens,
        "cached_tokens_estimate": begin.cached_tokens,
        "output_tokens_estimate": begin.output_tokens,
        "merit_order": begin.merit_order,
        "rejected": begin.rejected,
        "usd_avoidable_estimate": begin.merit_order[0].usd_avoidable if begin.merit_order else 0.0,
    }


def _end_row(end: End) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.structs.asdict(end)
    del row["v"]
    return {**row, "hour_s": int(end.at_s // 3600) * 3600, "ended_s": end.at_s}


def _whole_row(begin: Begin, end: End, segment: Segment) -> dict[str, Any]:
    row = _begin_row(begin, segment)
    return {**row, **_end_row(end), "at_s": row["at_s"], "hour_s": row["hour_s"], "writer": row["writer"]}


def _interrupt(store: Store, dead: set[str]) -> int:
    """Close what dead writers left open, at the estimate of the first quote. A later end still wins."""
    statement = (
        update(requests)
        .where(requests.c.status == OPEN, requests.c.incarnation.in_(sorted(dead)))
        .values(status=INTERRUPTED, usd_avoidable=requests.c.usd_avoidable_estimate)
    )
    with store.writing() as connection:
        return connection.execute(statement).rowcount


def _remove(store: Store, directory: Path, segments: list[Segment]) -> None:
    """Delete files that are loaded to the end, and the locks that killed writers left behind."""
    for segment in segments:
        this_file = journal_files.c.name == segment.path.name
        with store.writing() as connection:  # the turn of this loader: no other one is inside the file
            row = connection.execute(select(journal_files).where(this_file)).one_or_none()
            loaded_bytes = row.offset_bytes + row.torn_bytes if row is not None else 0
            if loaded_bytes == _size_bytes(segment.path):
                connection.execute(delete(journal_files).where(this_file))
                segment.path.unlink(missing_ok=True)
    for writer in {segment.writer for segment in segments}:
        remove_stale_lock(directory, writer)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
