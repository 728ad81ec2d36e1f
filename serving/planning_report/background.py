"""What stands behind a plan, as tables of text: what was played, what to expect, when to switch, what is assumed."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.planning.document import Plan, Supply
from serving.planning_report.outcome import replicas_of, years
from serving.report.tables import Column, Table, left
from serving.report.words import NONE, age, count, number, percent, plain

_ENGINES = {"kernel": "kernel", "exact": "exact engine"}
_KINDS = {
    "requests": "single requests",
    "rates": "rates by interval",
    "ledger": "the ledger of a gateway",
}


def finalists(plan: Plan) -> Table:
    """Candidate plans: what the search expected, and what the real policy paid when they were played."""
    columns = (
        left("replicas"),
        left("played by"),
        Column("hours", 4),
        Column("requests", 5),
        Column("searched"),
        Column("played"),
        Column("difference", 1),
        Column("burst %", 3),
        Column("in time %", 2),
        left("", 1),
    )
    rows = [
        (
            replicas_of(one.replicas),
            _ENGINES[one.engine],
            number(one.hours),
            f"{one.requests:,}",
            number(one.searched_usd_per_hour),
            number(one.played_usd_per_hour),
            _more(one.played_usd_per_hour, one.searched_usd_per_hour),
            _tenths(one.burst_share),
            _tenths(one.slo_attainment),
            "chosen" if one.is_chosen else "",
        )
        for one in sorted(
            plan.finalists, key=lambda one: (not one.is_chosen, one.engine == "exact", one.played_usd_per_hour)
        )
    ]
    return Table("Energy and APIs as searched and as played, USD per hour", columns, rows)


def _more(usd: float, than_usd: float) -> str:
    more = usd - than_usd
    return "0" if abs(more) < 5e-4 * than_usd else f"{'+' if more > 0.0 else '−'}{number(abs(more))}"


def _tenths(share: float) -> str:
    """Per cent to a tenth, never 100.0 for less than all."""
    tenths = min(1000.0 * share, 999.0) if share < 1.0 else 1000.0
    return f"{round(tenths) / 10.0:.1f}"


def switches(plan: Plan) -> Table:
    """For each kind of request: at home or elsewhere, and from which traffic on."""
    columns = (
        left("kind of request"),
        left("model here", 2),
        Column("USD/Mtok here"),
        left("model there", 2),
        Column("USD/Mtok there"),
        Column("Mtok a day"),
        Column("own from Mtok a day"),
        left("advice", 3, aside=True),
    )
    rows = [
        (
            plain(switch.profile),
            plain(switch.model_here),
            number(switch.here_usd_per_mtok),
            plain(switch.model_there),
            number(switch.there_usd_per_mtok),
            number(switch.mtok_per_day),
            number(switch.crossing_mtok_per_day),
            plain(switch.advice),
        )
        for switch in plan.switches
    ]
    return Table("Here or there: everything at the planned utilization, beside the cheapest API", columns, rows)


def workloads(plan: Plan) -> Table:
    """Make or buy, for each new workload that was asked for."""
    columns = (
        left("new workload"),
        Column("tokens in"),
        Column("out"),
        Column("Mtok a day"),
        Column("USD a day here", 1),
        Column("elsewhere", 1),
        Column("own from Mtok a day"),
        left("advice", 3),
    )
    rows = [
        (
            plain(one.name),
            number(one.input_tokens),
            number(one.output_tokens),
            number(one.mtok_per_day),
            number(one.make_usd_per_day),
            number(one.buy_usd_per_day),
            number(one.own_from_mtok_per_day),
            plain(one.advice),
        )
        for one in plan.workloads
    ]
    return Table("Make or buy", columns, rows)


def merit_order(plan: Plan) -> Table:
    """The steps of the merit order, numbered as in the figure."""
    columns = (
        Column("step"),
        left("supply"),
        left("kind"),
        Column("avoidable USD/Mtok"),
        Column("amortized USD/Mtok", 1),
        Column("tokens/s"),
    )
    rows = [
        (
            str(place),
            plain(supply.name),
            supply.kind if supply.kind != "api" else "API",
            number(supply.avoidable_usd_per_mtok),
            number(supply.amortized_usd_per_mtok),
            "no limit known" if supply.capacity_tokens_per_s is None else number(supply.capacity_tokens_per_s),
        )
        for place, supply in enumerate(by_merit(plan), 1)
    ]
    return Table("Merit order: the next token", columns, rows)


def by_merit(plan: Plan) -> list[Supply]:
    """Supplies by what the next token costs."""
    return sorted(plan.merit_order, key=lambda supply: (supply.avoidable_usd_per_mtok, supply.name))


def energy(plan: Plan) -> Table:
    """A year's energy and carbon."""
    rows: list[tuple[str, str, str]] = []
    if (use := plan.energy) is not None:
        rows = [
            ("energy", number(use.kwh_per_year), "kWh a year"),
            ("its price", number(use.usd_per_year), "USD a year"),
            ("a token served here", number(use.joules_per_token), "J"),
            ("carbon intensity", number(use.grams_co2_per_kwh), "g CO2 per kWh"),
            ("carbon", number(use.kg_co2_per_year), "kg CO2 a year"),
        ]
    rows = [row for row in rows if row[1] != NONE]
    return Table("A year of the plan", (left("what"), Column("value"), left("unit")), rows)


def expected(plan: Plan) -> Table:
    """What the gateway should see while the plan fits."""
    columns = (left("what"), Column("value"), left("unit"))
    found = plan.expected
    rows: list[tuple[str, str, str]] = []
    if found is not None:
        rows = [
            ("cost", number(found.usd_per_hour), "USD per hour"),
            ("of it APIs", number(found.usd_api_per_hour), "USD per hour"),
            ("of it energy", number(found.usd_energy_per_hour), "USD per hour"),
            ("APIs", number(found.api_usd_per_mtok), "USD per million tokens"),
            ("requests", number(found.requests_per_hour), "per hour"),
            ("burst to APIs", percent(found.burst_share), "of requests"),
            ("in time", f"{_tenths(found.slo_attainment)} %", "of requests"),
            ("input", number(found.input_tokens_mean), "tokens a request"),
            ("output", number(found.output_tokens_mean), "tokens a request"),
        ]
    empty = "What the gateway should see is not known."
    return Table("What the gateway should see while the plan fits; baseload status compares", columns, rows, empty)


def trace(plan: Plan) -> Table:
    """What the plan was made from."""
    return Table("What it was made from", (left("what"), left("value")), list(_trace(plan)))


def _trace(plan: Plan) -> Iterator[tuple[str, str]]:
    given = plan.trace
    yield "trace", f"{plain(given.name)} ({_KINDS[given.kind]})"
    dropped = f"; {count(given.dropped, 'row')} left out" if given.dropped else ""
    yield "requests", f"{given.requests:,} in {age(given.span_s)}{dropped}"
    if given.copies != 1.0:
        yield "copies", f"{given.copies:.4g} of it at a time"
    yield (
        "rate",
        f"{number(given.requests_per_s_mean)} requests/s on average, {number(given.requests_per_s_peak)} at the peak",
    )
    yield "a request", f"{number(given.input_tokens_mean)} tokens in, {number(given.output_tokens_mean)} out on average"
    yield "horizon", years(plan.horizon_years)
    yield "made", plain(plan.made_at)


def assumptions(plan: Plan) -> Table:
    """Everything that the plan takes for granted."""
    columns = (
        left("assumption"),
        left("value"),
        left("unit", 1),
        left("label"),
        left("source"),
        left("as of", 2),
    )
    rows = [
        tuple(plain(text) for text in (one.name, one.value, one.unit, one.label, one.source, one.as_of))
        for one in plan.assumptions
    ]
    return Table("Taken for granted", columns, rows, "No assumption is listed.")
