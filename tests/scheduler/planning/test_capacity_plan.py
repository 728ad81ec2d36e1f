"""The mixed-integer program: cases done by hand, two oracles that share no code with it, and what Mélange found."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from scheduler.core.supply import ServiceCurve
from scheduler.planning.capacity import Capacity, Infeasible, Problem, solve
from scheduler.planning.throughput import work_s_at_slo

INF = math.inf
SEEDS = st.integers(0, 2**32 - 1)
EXACT = 1e-9


def problem(**changes: object) -> Problem:
    """One group, one technology, 1 s of work: 1 request/s for three quarters of the time, 3 for the rest."""
    fields: dict[str, object] = {
        "hours": np.array([0.75, 0.25]),
        "rate": np.array([[1.0, 3.0]]),
        "work_s": np.array([[1.0]]),
        "energy_usd": np.array([[0.0001]]),
        "elsewhere_usd": np.array([0.001]),
        "owned_usd_per_hour": np.array([1.0]),
        "reserved_usd_per_hour": np.array([1.2]),
        "rented_usd_per_hour": np.array([3.0]),
        "replicas_max": np.array([10.0]),
    }
    return Problem(**(fields | changes))  # type: ignore[arg-type]


def random_problem(seed: int, groups: int, kinds: int, slices: int, replicas_max: int = 2) -> Problem:
    """Loads of a replica or two, prices at which now this and now that is the best."""
    rng = np.random.default_rng(seed)
    work_s = rng.uniform(0.2, 2.0, (groups, kinds))
    work_s[rng.random((groups, kinds)) < 0.2] = INF
    elsewhere_usd = rng.uniform(0.0001, 0.002, groups)
    elsewhere_usd[rng.random(groups) < 0.15] = INF
    prices = rng.uniform(0.3, 4.0, (3, kinds))
    prices[rng.random((3, kinds)) < 0.25] = INF
    return Problem(
        rng.uniform(0.1, 1.0, slices),
        rng.exponential(0.7, (groups, slices)) * (rng.random((groups, slices)) < 0.9),
        work_s,
        rng.uniform(0.0, 0.0004, (groups, kinds)),
        elsewhere_usd,
        *prices,
        np.full(kinds, float(replicas_max)),
        usable=float(rng.choice([0.7, 1.0])),
    )


def check(asked: Problem, found: Capacity) -> None:
    """Every promise of ``Capacity``, recomputed from the problem."""
    asks = asked.rate > 0.0
    assert (found.share >= 0.0).all()
    assert (found.rented >= 0.0).all()
    np.testing.assert_allclose(found.share.sum(axis=1) + found.api_share, asks, atol=1e-9)
    assert (found.api_share[np.isinf(asked.elsewhere_usd)] == 0.0).all()
    cannot = np.isinf(asked.work_s)
    assert (found.share[cannot] == 0.0).all()
    had = (found.owned + found.reserved)[:, None] + found.rented
    work = np.einsum("gs,gt,gts->ts", asked.rate, np.where(cannot, 0.0, asked.work_s), found.share)
    assert (work <= asked.usable * had + 1e-5).all()
    assert (had <= asked.replicas_max[:, None] + 1e-6).all()
    prices = (asked.owned_usd_per_hour, asked.reserved_usd_per_hour, asked.rented_usd_per_hour)
    share_of_time = asked.hours / asked.hours.sum()
    paid = 0.0
    for price, count in zip(prices, (found.owned, found.reserved, found.rented @ share_of_time), strict=True):
        assert (count[np.isinf(price)] == 0).all()
        paid += float(np.where(np.isinf(price), 0.0, price) @ count)
    per_request = np.einsum("gt,gts->gs", asked.energy_usd, found.share)
    per_request += found.api_share * np.where(np.isinf(asked.elsewhere_usd), 0.0, asked.elsewhere_usd)[:, None]
    paid += 3600.0 * float(((asked.rate * per_request) @ share_of_time).sum())
    assert found.usd_per_hour == pytest.approx(paid, rel=1e-6, abs=1e-9)


def fluid_usd(asked: Problem, had: np.ndarray) -> float:
    """The least cost of a slice after the other with ``had`` replicas paid for, dense and without bounds of the program."""
    groups, kinds = asked.work_s.shape
    rents = np.isfinite(asked.rented_usd_per_hour)
    total = 0.0
    for part, rate in zip(asked.hours / asked.hours.sum(), asked.rate.T, strict=True):
        use = np.isfinite(asked.work_s) & (rate > 0.0)[:, None]
        cost = 3600.0 * np.where(use, rate[:, None] * asked.energy_usd, 0.0)
        leaves = 3600.0 * rate * np.where(np.isinf(asked.elsewhere_usd), 0.0, asked.elsewhere_usd)
        rent = np.where(rents, asked.rented_usd_per_hour, 0.0)
        work = np.zeros((kinds, groups * kinds + groups + kinds))
        everything = np.zeros((groups, work.shape[1]))
        for g, t in itertools.product(range(groups), range(kinds)):
            work[t, g * kinds + t] = rate[g] * asked.work_s[g, t] if use[g, t] else 0.0
            everything[g, g * kinds + t] = 1.0
        everything[:, groups * kinds : groups * kinds + groups] = np.eye(groups)
        work[:, groups * kinds + groups :] = -asked.usable * np.eye(kinds)
        may_leave = np.isfinite(asked.elsewhere_usd) | (rate == 0.0)
        most = [*use.ravel().astype(float), *may_leave.astype(float), *np.where(rents, asked.replicas_max - had, 0.0)]
        result = linprog(
            np.concatenate((cost.ravel(), leaves, rent)),
            A_ub=work,
            b_ub=asked.usable * had,
            A_eq=everything,
            b_eq=np.ones(groups),
            bounds=[(0.0, upper) for upper in most],
        )
        if result.status != 0:
            return INF
        total += part * float(result.fun)
    return total


def tried_usd(asked: Problem) -> float:
    """The least cost over every number of replicas to own and to reserve."""
    kinds = asked.work_s.shape[1]
    pairs = [pair for pair in itertools.product(range(int(asked.replicas_max[0]) + 1), repeat=2) if sum(pair) <= 2]
    best, fluid = INF, {}
    for chosen in itertools.product(pairs, repeat=kinds):
        owned, reserved = np.array(chosen).T
        paid = 0.0
        for price, count in ((asked.owned_usd_per_hour, owned), (asked.reserved_usd_per_hour, reserved)):
            paid += sum(usd * number for usd, number in zip(price, count, strict=True) if number)
        key = tuple(owned + reserved)
        if paid < best:
            if key not in fluid:
                fluid[key] = fluid_usd(asked, owned + reserved)
            best = min(best, paid + fluid[key])
    return best


@settings(max_examples=30)
@given(SEEDS, st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))
def test_no_number_of_replicas_that_could_be_had_costs_less(seed: int, groups: int, kinds: int, slices: int) -> None:
    asked = random_problem(seed, groups, kinds, slices)
    least_usd = tried_usd(asked)
    if least_usd == INF:
        with pytest.raises(Infeasible):
            solve(asked)
        return
    found = solve(asked, gap=EXACT)
    check(asked, found)
    assert found.is_optimal
    assert found.usd_per_hour == pytest.approx(least_usd, rel=1e-6, abs=1e-9)


def knapsack_usd(asked: Problem, had: int) -> float:
    """One technology, ``had`` replicas: in each slice the most valuable second of work first, rented while worth its rent."""
    usd, worth = 0.0, (asked.elsewhere_usd - asked.energy_usd[:, 0]) / asked.work_s[:, 0] * 3600.0 * asked.usable
    for part, rate in zip(asked.hours / asked.hours.sum(), asked.rate.T, strict=True):
        usd += part * 3600.0 * float(rate @ asked.elsewhere_usd)
        left, room = float(had), asked.replicas_max[0] - had
        for g in np.argsort(-worth):
            wanted = rate[g] * asked.work_s[g, 0] / asked.usable
            at_home = min(left, wanted) if worth[g] > 0.0 else 0.0
            at_rent = min(room, wanted - at_home) if worth[g] > asked.rented_usd_per_hour[0] else 0.0
            left, room = left - at_home, room - at_rent
            usd -= part * (
                (at_home + at_rent) * worth[g] - (at_rent * asked.rented_usd_per_hour[0] if at_rent else 0.0)
            )
    return usd


@settings(max_examples=60)
@given(SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(0, 6))
def test_one_technology_is_filled_like_a_knapsack(seed: int, groups: int, slices: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    asked = replace(
        random_problem(seed, groups, 1, slices, most),
        work_s=rng.uniform(0.2, 2.0, (groups, 1)),
        elsewhere_usd=rng.uniform(0.0001, 0.002, groups),
    )
    had_usd = min(asked.owned_usd_per_hour[0], asked.reserved_usd_per_hour[0])
    counts = range(most + 1) if had_usd < INF else (0,)
    least_usd = min(knapsack_usd(asked, n) + (n * had_usd if n else 0.0) for n in counts)
    found = solve(asked, gap=EXACT)
    check(asked, found)
    assert found.usd_per_hour == pytest.approx(least_usd, rel=1e-6, abs=1e-9)


@settings(max_examples=30)
@given(SEEDS, st.sampled_from([1e-7, 1e-3, 1e5]))
def test_dearer_money_changes_the_bill_and_nothing_else(seed: int, factor: float) -> None:
    asked = replace(random_problem(seed, 3, 2, 3), elsewhere_usd=np.array([0.002, 0.001, 0.0005]))
    names = ("energy_usd", "elsewhere_usd", "owned_usd_per_hour", "reserved_usd_per_hour", "rented_usd_per_hour")
    dear = replace(asked, **{name: factor * getattr(asked, name) for name in names})
    one, other = solve(asked, gap=EXACT), solve(dear, gap=EXACT)
    assert other.usd_per_hour == pytest.approx(factor * one.usd_per_hour, rel=1e-6)


def test_base_load_is_owned_and_the_peak_rented() -> None:
    """A full replica works 3600 requests an hour, worth 3.60 at the API and 0.36 of energy: it saves 3.24 an hour.

    The first is always busy: 1 owned < 3 rented < 3.24. Two more are for a quarter of the time: rent 0.75 < 0.81 saved < 1.
    In all 1 + 0.25 * 2 * 3 + 0.36 * (0.75 * 1 + 0.25 * 3) = 1 + 1.5 + 0.54.
    """
    found = solve(problem(), gap=EXACT)
    check(problem(), found)
    assert (found.owned.tolist(), found.reserved.tolist()) == ([1], [0])
    assert found.rented.tolist() == [pytest.approx([0.0, 2.0])]
    assert found.usd_per_hour == pytest.approx(3.04)
    assert (found.is_optimal, found.gap) == (True, pytest.approx(0.0, abs=1e-9))


def test_the_cheaper_of_owned_and_reserved_is_had_and_the_api_takes_a_peak_that_no_rent_pays() -> None:
    """Rent of 3.30 exceeds the 3.24 saved, so two thirds of the peak leave: 1 + 0.36 * 1 + 0.25 * 2 * 3.60."""
    asked = problem(reserved_usd_per_hour=np.array([0.9]), rented_usd_per_hour=np.array([3.3]))
    found = solve(asked, gap=EXACT)
    assert (found.owned.tolist(), found.reserved.tolist()) == ([0], [1])
    assert found.api_share.tolist() == [pytest.approx([0.0, 2.0 / 3.0])]
    assert found.usd_per_hour == pytest.approx(0.9 + 0.36 + 1.8)


def test_a_share_of_time_that_may_not_be_planned_takes_more_replicas() -> None:
    """With half of each replica usable, two serve the base and four more the peak."""
    asked = problem(usable=0.5, elsewhere_usd=np.array([0.01]))
    found = solve(asked, gap=EXACT)
    assert found.owned.tolist() == [2]
    assert found.rented[0].tolist() == pytest.approx([0.0, 4.0])


def test_whole_replicas_are_rented_where_parts_are_not_to_be_had() -> None:
    """At a peak of 2.5 beside one owned, 1.5 are rented, or two: 1.5 USD against 1.125 and the API's price of 0.5."""
    asked = problem(rate=np.array([[1.0, 2.5]]), elsewhere_usd=np.array([0.01]))
    assert solve(asked, gap=EXACT).rented[0].tolist() == pytest.approx([0.0, 1.5])
    assert solve(asked, gap=EXACT, whole_rented=True).rented[0].tolist() == [0.0, 2.0]


def test_nothing_is_had_where_apis_are_cheaper_than_energy_or_there_is_too_little_to_do() -> None:
    none = np.array([INF])
    for asked in (
        problem(elsewhere_usd=np.array([0.0001])),
        problem(rate=np.full((1, 2), 0.01), rented_usd_per_hour=none),
    ):
        found = solve(asked)
        assert (found.owned.tolist(), found.rented.max(), found.api_share.min()) == ([0], 0.0, 1.0)
        assert found.usd_per_hour == pytest.approx(3600.0 * float(asked.hours @ asked.rate[0]) * asked.elsewhere_usd[0])


def test_nothing_asked_costs_nothing() -> None:
    found = solve(problem(rate=np.zeros((1, 2))))
    assert (found.owned.tolist(), found.usd_per_hour, found.share.max(), found.api_share.max()) == ([0], 0.0, 0.0, 0.0)


def test_groups_that_have_to_stay_and_fit_nowhere_are_named() -> None:
    """Two of three have to stay: one that nothing serves, one of which ten replicas serve 10 of 11 requests a second."""
    asked = problem(
        rate=np.array([[1.0, 1.0], [1.0, 11.0], [5.0, 5.0]]),
        work_s=np.array([[INF], [1.0], [1.0]]),
        energy_usd=np.zeros((3, 1)),
        elsewhere_usd=np.array([INF, INF, 0.001]),
        names=("sovereign", "private", "public"),
    )
    with pytest.raises(Infeasible, match="to be had: sovereign, private") as raised:
        solve(asked)
    assert raised.value.groups == (0, 1)
    fits = replace(asked, rate=np.array([[0.0, 0.0], [1.0, 10.0], [5.0, 5.0]]))
    check(fits, solve(fits))


def test_what_has_to_stay_stays_at_any_price() -> None:
    """Alone it owns one for 1, rents 2 for a quarter of the time, and pays energy above what any API would ask."""
    asked = problem(elsewhere_usd=np.array([INF]), energy_usd=np.array([[0.1]]))
    assert solve(asked).usd_per_hour == pytest.approx(1.0 + 0.25 * 2 * 3 + 3600 * 0.1 * 1.5)


SMALL_GPU = ServiceCurve(5_000.0, 0.02, 0.0010, seqs_max=128, kv_tokens=40_000)
LARGE_GPU = ServiceCurve(20_000.0, 0.01, 0.0005, seqs_max=256, kv_tokens=400_000)


def sizes(prompt: list[int], answer: list[int], rate: list[float], elsewhere_usd: float = INF) -> Problem:
    """A small GPU for 0.7 USD/h with little memory beside a large one for 3.0, at 2 s to the first token and 80 ms pace."""
    curves = (SMALL_GPU, LARGE_GPU)
    work_s = np.stack([work_s_at_slo(curve, np.array(prompt), np.array(answer), 2.0, 0.08) for curve in curves], axis=1)
    none = np.full(2, INF)
    prices = (np.array([0.7, 3.0]), none, none)
    groups = len(prompt)
    return Problem(
        np.ones(1),
        np.array([rate]).T,
        work_s,
        np.zeros((groups, 2)),
        np.full(groups, elsewhere_usd),
        *prices,
        np.full(2, 200.0),
    )


def alone(asked: Problem, kind: int) -> Problem:
    """The same with one type only."""
    prices = np.full(2, INF)
    prices[kind] = asked.owned_usd_per_hour[kind]
    return replace(asked, owned_usd_per_hour=prices)


def test_for_small_and_large_requests_a_mix_of_gpus_beats_the_best_single_type() -> None:
    """Mélange's result: per USD small requests fare best on the small GPU, large ones on the large one."""
    asked = sizes([100, 6_000], [80, 800], [300.0, 12.0])
    per_usd = asked.work_s * asked.owned_usd_per_hour
    assert per_usd.argmin(axis=1).tolist() == [0, 1]
    mix = solve(asked, gap=EXACT)
    check(asked, mix)
    assert (mix.owned > 0).all()
    assert mix.usd_per_hour < 0.9 * min(solve(alone(asked, kind)).usd_per_hour for kind in (0, 1))
    assert mix.share[:, :, 0].diagonal().min() > 0.9


@pytest.mark.parametrize(("prompt", "answer", "best"), [(100, 80, 0), (6_000, 800, 1)])
def test_for_requests_of_one_size_one_type_of_gpu_is_the_best(prompt: int, answer: int, best: int) -> None:
    """As much as eight of the better type serve: there is nothing left that a replica of the other could do better."""
    asked = sizes([prompt], [answer], [1.0])
    asked = replace(asked, rate=8.0 / asked.work_s[:, [best]])
    found = solve(asked, gap=EXACT)
    assert found.owned.tolist() == [8 * (kind == best) for kind in (0, 1)]
    assert found.usd_per_hour < solve(alone(asked, 1 - best)).usd_per_hour


@pytest.mark.parametrize("whole_rented", [False, True])
@pytest.mark.parametrize("replicas_max", [9, 40])
def test_what_was_found_in_too_little_time_is_a_plan_with_a_gap_that_holds(
    replicas_max: int, whole_rented: bool
) -> None:
    rng = np.random.default_rng(3)
    asked = replace(
        random_problem(3, 8, 4, 6, replicas_max),
        rate=rng.exponential(5.0, (8, 6)),
        work_s=rng.uniform(0.2, 2.0, (8, 4)),
        elsewhere_usd=rng.uniform(0.0003, 0.002, 8),
        owned_usd_per_hour=rng.uniform(0.3, 1.0, 4),
        rented_usd_per_hour=rng.uniform(1.0, 2.0, 4),
    )
    least_usd = solve(asked, gap=1e-6, whole_rented=whole_rented).usd_per_hour
    hasty = solve(asked, gap=0.0, time_s_max=1e-9, whole_rented=whole_rented)
    check(asked, hasty)
    assert least_usd * (1.0 - 1e-6) <= hasty.usd_per_hour <= 1.2 * least_usd
    assert hasty.usd_per_hour * (1.0 - hasty.gap) <= least_usd * (1.0 + 1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": np.ones((2, 2))},
        {"hours": np.zeros(2)},
        {"work_s": np.zeros((1, 1))},
        {"rate": np.full((1, 2), math.nan)},
        {"owned_usd_per_hour": np.array([-1.0])},
        {"elsewhere_usd": np.array([math.nan])},
        {"usable": 0.0},
        {"names": ("one", "two")},
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="have to"):
        problem(**changes)
