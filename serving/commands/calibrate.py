"""``baseload calibrate``: the service curve of a running pool, as a table and as YAML for the site file. Writes nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from scheduler.config import ClusterConfig, ConfigError, load
from serving.calibration import session, words
from serving.calibration.ask import CalibrationError
from serving.calibration.load import Progress
from serving.calibration.plan import CONFIG, Plan
from serving.calibration.session import Given, Measured

INTERRUPTED = 130


def run(config_path: Path, given: Given, as_json: bool) -> int:
    """Measure and print. Exit status 0; 1 refused or no curve; 2 site file; 3 no gateway; 130 stopped by Ctrl-C."""
    try:
        found = _measured(load(config_path), given)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return CONFIG
    except CalibrationError as error:
        print(f"baseload: {error}", file=sys.stderr)
        return error.status
    if as_json:
        print(msgspec.json.encode(_document(found)).decode())
    else:
        _show(found)
    if found.interrupted:
        return INTERRUPTED
    if found.decode is not None and found.prefill is not None:
        return 0
    print(f"baseload: no curve. {words.without_curve(found)}", file=sys.stderr)
    return 1


def _measured(config: ClusterConfig, given: Given) -> Measured:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:

        def began(plan: Plan) -> Callable[[str], None]:
            console.print(plan.in_words(), highlight=False, soft_wrap=True)
            task, start_s = bar.add_task("warming up", total=plan.seconds), time.monotonic()

            def told(text: str) -> None:
                done_s = min(time.monotonic() - start_s, 0.99 * plan.seconds)
                bar.update(task, completed=done_s, description=text)

            return told

        def warned(text: str) -> None:
            console.print(f"baseload: {text}", highlight=False, soft_wrap=True)

        return asyncio.run(_until_stopped(config, given, began, warned))


async def _until_stopped(
    config: ClusterConfig, given: Given, began: Callable[[Plan], Progress], warned: Callable[[str], None]
) -> Measured:
    """The calibration as a task that Ctrl-C and SIGTERM cancel: it then returns what it has."""
    task = asyncio.create_task(session.calibrate(config, given, began, warned))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise CalibrationError("stopped before anything was measured", INTERRUPTED) from None


def _document(found: Measured) -> dict[str, object]:
    """The result for programs; seconds, tokens, USD."""
    tally = found.tally
    return {
        "object": "calibration",
        "offer": found.plan.offer,
        "replicas": found.plan.replicas,
        "partial": found.partial or None,
        "prefill": found.prefill,
        "decode": found.decode,
        "energy": found.power.fit,
        "energy_note": found.power.note or None,
        "curve": words.values(found),
        "curve_before": found.plan.pool.curve.model_dump(),
        "prefill_points": [point._asdict() for point in found.prefill_points],
        "decode_points": [{"level": level, **point._asdict()} for level, point in found.decode_points],
        "requests": tally.requests,
        "requests_elsewhere": tally.elsewhere.total(),
        "requests_of_others": found.others,
        "requests_failed": tally.failed.total(),
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "usd": tally.usd,
        "seconds": round(found.seconds, 3),
        "warnings": words.warnings(found),
        "yaml": words.fragment(found),
    }


def _show(found: Measured) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120)

    def table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        if not rows:
            return
        grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for column in columns:
            grid.add_column(column, justify="right")
        for row in rows:
            grid.add_row(*row)
        console.print(Text(title, style="bold"))
        console.print(grid)
        console.print()

    console.print(Text(f"{found.plan.offer}: {words.sentence(found)}", style="bold"))
    for text in words.warnings(found):
        console.print(Text(text))
    console.print()
    table(
        "Prefill: one request at a time, medians in ms",
        ("prompt tokens", "requests", "TTFT", "on the line", "cluster.yaml"),
        words.prefill_rows(found),
    )
    table(
        f"Decode: answers of {found.output_tokens} tokens, medians in ms",
        ("at a time", "running per replica", "requests", "ITL", "off the line", "cluster.yaml"),
        words.decode_rows(found),
    )
    if found.power.fit is None:
        console.print(Text(f"No energy figures: {found.power.note}."))
        console.print()
    if found.decode is not None or found.prefill is not None:
        console.print(Text(f"To paste into cluster.yaml, pool {found.plan.pool.name}:", style="bold"))
        print(words.fragment(found))
        console.print()
    tally = found.tally
    console.print(
        Text(
            f"{tally.requests:,} requests, {tally.input_tokens:,} input and {tally.output_tokens:,} output tokens in "
            f"{found.seconds:.0f} s; ${tally.usd:.6f} of power on the tenant's account."
        )
    )
