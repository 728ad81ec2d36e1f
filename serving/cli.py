"""The command line. Heavy imports stay inside the commands, so that ``baseload --help`` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.commands import ledger, plan, status

app = typer.Typer(
    name="baseload",
    help="Economic dispatcher for LLM inference: own GPUs carry the base load, APIs the peak.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ledger.app, name="ledger")

_EMBEDDED = "cluster.yaml"


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Site file.")] = Path(_EMBEDDED),
    as_json: Annotated[bool, typer.Option("--json", help="Problems as JSON.")] = False,
) -> None:
    """Check a site file: unknown fields, dangling names, impossible values. Exit status 2 if it cannot be used.

    Example: baseload check examples/air-gapped.yaml
    """
    from serving.commands.check import run

    raise typer.Exit(run(file, as_json))


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="Site file.")] = Path(_EMBEDDED),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    log_to: Annotated[str, typer.Option(help="Directory for the processes' logs, or - for standard error.")] = (
        ".baseload/logs"
    ),
) -> None:
    """Start pools, controller, gates and gateway on this machine; Ctrl-C stops them all.

    Example: baseload serve --config cluster.yaml --port 8080
    """
    from serving.commands.check import load_or_explain
    from serving.commands.serve import run

    loaded = load_or_explain(config)
    raise typer.Exit(run(loaded, str(config), host, port, None if log_to == "-" else Path(log_to)))


@app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="What a user would ask.")],
    model: Annotated[str, typer.Option(help="Alias, model, or auto.")] = "auto",
    url: Annotated[str, typer.Option(envvar="BASELOAD_URL", help="The running gateway.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="BASELOAD_API_KEY", help="API key of a tenant.")] = "local-demo",
    label: Annotated[list[str] | None, typer.Option(help="Data label; may be repeated.")] = None,
    zones: Annotated[str, typer.Option(help="Narrow to these zones, separated by commas.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="The gateway's answer as it is.")] = False,
) -> None:
    """Ask the running gateway where a request would go and why, without running it.

    Example: baseload explain "prove that the square root of 2 is irrational" --label restricted
    """
    from serving.commands.explain import run

    raise typer.Exit(run(prompt, model, url, key, label or [], zones, max_tokens, as_json))


@app.command()
def prices(
    url: Annotated[str, typer.Option(envvar="BASELOAD_URL", help="The running gateway.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="BASELOAD_API_KEY", help="API key of a tenant.")] = "local-demo",
    offline: Annotated[
        bool, typer.Option("--offline", help="From the site file and the recorded history; nothing needs to run.")
    ] = False,
    config: Annotated[Path, typer.Option(help="Site file, for --offline and --html.")] = Path(_EMBEDDED),
    html: Annotated[Path | None, typer.Option(help="Write a page with price history and cost stack there.")] = None,
    since: Annotated[str, typer.Option(help="How far back the page goes: 90m, 24h, 7d, 4w or all.")] = "4w",
    as_json: Annotated[bool, typer.Option("--json", help="The whole board as JSON.")] = False,
) -> None:
    """What a token costs here and out there: offers, our own cost on three bases, feeds, and what needs attention.

    Example: baseload prices --html prices.html --since 7d
    """
    from serving.commands.prices import Options, run
    from serving.commands.spans import start_s

    raise typer.Exit(run(Options(config, url.rstrip("/"), key, offline, as_json, html, start_s(since))))


app.command()(status.status)


@app.command()
def calibrate(
    pool: Annotated[str, typer.Argument(help="Name of a pool of the site file.")],
    config: Annotated[Path, typer.Option(help="Site file that the gateway runs with.")] = Path(_EMBEDDED),
    url: Annotated[str, typer.Option(envvar="BASELOAD_URL", help="The running gateway.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="BASELOAD_API_KEY", help="API key of a tenant.")] = "local-demo",
    seconds_per_step: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds at each load.")] = 5.0,
    force: Annotated[bool, typer.Option("--force", help="Measure although others use the pool.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
) -> None:
    """Measure a running pool's service curve and print it as YAML for the site file; nothing is changed.

    Example: baseload calibrate tiny --seconds-per-step 10
    """
    import time

    from serving.calibration.session import Given
    from serving.commands.calibrate import run

    raise typer.Exit(run(config, Given(pool, url, key, seconds_per_step, force, time.time_ns()), as_json))


@app.command()
def replay(
    trace: Annotated[Path, typer.Option(help="Trace of requests, CSV or JSON lines, plain or gzip.")],
    mix: Annotated[Path | None, typer.Option(help="Whose the requests are; else each tenant in equal shares.")] = None,
    config: Annotated[Path, typer.Option(help="Site file that the gateway runs with.")] = Path(_EMBEDDED),
    url: Annotated[str, typer.Option(help="The running gateway.")] = "http://127.0.0.1:8080",
    key: Annotated[
        str, typer.Option(envvar="BASELOAD_API_KEY", help="API key of tenants without BASELOAD_KEY_<TENANT>.")
    ] = "local-demo",
    start_s: Annotated[float, typer.Option(min=0, help="Begin at this second of the trace.")] = 0.0,
    seconds: Annotated[float, typer.Option(min=0.001, help="Seconds of the trace to play.")] = 60.0,
    speed: Annotated[float, typer.Option(min=0.001, max=1000, help="2 plays twice as fast.")] = 1.0,
    scale_input: Annotated[float, typer.Option(min=0, help="Prompts of this many times the trace's tokens.")] = 1.0,
    scale_output: Annotated[float, typer.Option(min=0, help="Answers of this many times the trace's tokens.")] = 1.0,
    input_tokens_max: Annotated[int | None, typer.Option(min=1, help="Cut prompts to this.")] = None,
    output_tokens_max: Annotated[int | None, typer.Option(min=1, help="Cut answers to this.")] = None,
    concurrency_max: Annotated[int, typer.Option(min=1, help="Requests in flight at most.")] = 256,
    usd_max: Annotated[float, typer.Option(min=0, help="Send no more once answers have cost this much.")] = 10.0,
    seed: Annotated[int, typer.Option(min=0, help="Draws profiles and words.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write one CSV row a request there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON.")] = False,
) -> None:
    """Play the requests of a trace at their times against a running gateway, and show how they fared.

    Example: baseload replay --trace requests.csv.gz --seconds 120 --input-tokens-max 300 --output-tokens-max 100
    """
    from serving.commands.replay import run
    from serving.replay.plan import Given

    cut = (input_tokens_max, output_tokens_max)
    given = Given(
        trace, config, url.rstrip("/"), key, mix, start_s, seconds, speed, scale_input, scale_output, *cut,
        concurrency_max, usd_max, seed,
    )  # fmt: skip
    raise typer.Exit(run(given, as_json, out))


@app.command()
def simulate(
    trace: Annotated[Path, typer.Option(help="Trace of requests, CSV or JSON lines, plain or gzip.")],
    config: Annotated[Path, typer.Option(help="Site file: pools, APIs, prices.")] = Path(_EMBEDDED),
    mix: Annotated[Path | None, typer.Option(help="Whose the requests are; else each tenant in equal shares.")] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="Names divided by commas, or all; commitment is one of all where the site file enforces it.",
            metavar="NAME,...|all",
        ),
    ] = "all",
    load_factor: Annotated[
        float | None,
        typer.Option(
            help="Lay copies of the trace over each other until local work is this many times what the pools can do."
        ),
    ] = None,
    gateways: Annotated[int, typer.Option(min=1, max=1024, help="Gateways that decide on their own.")] = 4,
    snapshot_age: Annotated[
        float, typer.Option(help="Seconds between two looks of a gateway at the market; 0.05 at least.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Draws copies, profiles and latencies.")] = 0,
    requests_max: Annotated[int, typer.Option(min=1, help="Cut the trace to this many requests.")] = 600_000,
    chain: Annotated[bool, typer.Option(help="Split the distance to the bound by two more runs.")] = True,
    sort: Annotated[bool, typer.Option("--sort", help="Put a trace in order whose arrivals go back.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with figures there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON.")] = False,
    price_history: Annotated[
        Path | None, typer.Option(help="Prices as they were recorded: a history's folder, or one file of its lines.")
    ] = None,
    price_history_from: Annotated[
        str, typer.Option(help="The trace begins at this time of the history; else where it begins.", metavar="TIME")
    ] = "",
) -> None:
    """Replay a trace through the site's policies and the rules in use elsewhere, against a clairvoyant bound.

    Thresholds are tuned on the first fifth of the trace, all policies are judged on the rest.

    Example: baseload simulate --config examples/h100-site.yaml --mix examples/mix-heterogeneous.yaml --trace requests.csv.gz
    --load-factor 1.2 --html simulation.html

    With prices that were recorded: baseload simulate --trace requests.csv.gz --price-history .baseload/prices
    --price-history-from 2026-10-01T00:00Z
    """
    from serving.commands.simulate import Options, run

    asked = Options(
        config, trace, mix, policy, load_factor, gateways, snapshot_age, seed, requests_max, chain, sort, as_json, html,
        price_history, price_history_from,
    )  # fmt: skip
    raise typer.Exit(run(asked))


app.command()(plan.plan)


def main() -> None:
    """Entry point of the ``baseload`` command."""
    app()


if __name__ == "__main__":
    main()
