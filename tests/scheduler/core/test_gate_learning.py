"""What one pool's gate learns while it serves: its engines' pace, their first tokens, and who overtakes whom."""

from __future__ import annotations

import math

import pytest

from scheduler.core.gate import PoolGate
from tests.support.markets import POLICY
from tests.support.pool_gates import PATIENT, URGENT, crowd, entered, gate_of, granted, ticket


@pytest.mark.parametrize("truth", [1.3, 1 / 1.3])
def test_a_wrong_service_curve_is_corrected_from_first_tokens(truth: float) -> None:
    gate = gate_of("a", slots=4, ttft_base_s=0.2)
    now_s = 0.0
    for i in range(200):
        entered(gate, ticket(str(i), at_s=now_s), now_s=now_s)
        now_s += 0.1 * truth + 0.2  # the way there and back is no prefill
        gate.first_token(str(i), now_s)
        gate.leave(str(i), now_s)
    assert gate.calibration.prefill.value == pytest.approx(truth, rel=0.01)
    assert gate.calibration.work.value == 1.0  # nobody ever waited
    begun = granted(entered(gate, *(ticket(str(i), at_s=now_s) for i in range(-4, 0)), now_s=now_s))
    assert len(begun) == (1 if truth > 1.0 else 2)
    # Prompts that are begun take as long as engines really need; the others' work lies ahead.
    expected_s = 0.1 * truth * len(begun) + 0.1 * (4 - len(begun))
    assert gate.levels(now_s)[1].wait_s == pytest.approx(expected_s, rel=0.01)


@pytest.mark.parametrize("truth", [1.3, 1 / 1.3])
def test_the_pace_of_a_line_corrects_the_wait_in_it(truth: float) -> None:
    gate = gate_of("a", "b", waiting_max=1_000)
    held = granted(entered(gate, *(ticket(str(i), start_by_s=1e9) for i in range(800))))
    for turn in range(1, 301):
        for name in held:
            gate.first_token(name, 0.1 * truth * turn)
        held = [new for name in held for new in granted(gate.leave(name, 0.1 * truth * turn))]
    assert gate.calibration.work.value == pytest.approx(truth, rel=0.02)
    now_s = 0.1 * truth * 300
    # Each engine has a prompt of 0.1 s, and half of the work of those who wait.
    expected_s = 0.1 * truth * (1.0 + 0.5 * gate.waiting)
    assert gate.waiting == 198
    assert gate.levels(now_s)[1].wait_s == pytest.approx(expected_s, rel=0.02)
    assert gate.queue(ticket("new", at_s=now_s), now_s).ratio == gate.calibration.work.value


def test_news_of_a_first_token_takes_its_time_while_the_engine_is_at_the_next_prompt() -> None:
    gate = gate_of("a", slots=4, ttft_base_s=0.2)
    assert granted(entered(gate, ticket("1"), ticket("2"))) == ["1", "2"]
    gate.first_token("1", 0.3)  # done at 0.1
    assert gate.lanes["a"].backlog_s(0.15, 1.0) == pytest.approx(0.05)
    gate.first_token("2", 0.4)  # done at 0.2
    assert gate.calibration.prefill.value == pytest.approx(1.0)


def test_the_step_that_runs_when_a_prompt_comes_is_part_of_the_prediction() -> None:
    gate = gate_of("a", slots=8, step_base_s=0.01, step_per_seq_s=0.005)
    for name in ("1", "2"):
        gate.hold(ticket(name), "a", 0.0)
    entered(gate, ticket("3"))
    assert gate.lanes["a"].step_s == pytest.approx(0.01 + 2 * 0.005)
    gate.first_token("3", 0.1 + 0.01 + 2 * 0.005)
    assert gate.calibration.prefill.value == pytest.approx(1.0)


def test_opinions_of_engines_fade_while_nobody_comes() -> None:
    gate = gate_of("a")
    entered(gate, ticket("1"))
    gate.first_token("1", 0.4)
    gate.leave("1", 0.4)
    assert gate.calibration.prefill.value > 1.25
    for second in range(1, 3_000):
        assert gate.tick(float(second)) == []
    assert gate.calibration.prefill.value == pytest.approx(1.0, abs=0.01)


def urgent_for(gate: PoolGate, seconds: int, work_s: float) -> float:
    """Urgent tickets with ``work_s`` come ten times a second and are done at once. Returns when."""
    for turn in range(10 * seconds):
        now_s = 0.1 * turn
        assert granted(entered(gate, ticket(f"u{turn}", URGENT, now_s, work_s=work_s, prefill_s=0.0), now_s=now_s))
        gate.leave(f"u{turn}", now_s)
    return float(seconds)


@pytest.mark.parametrize(("work_s", "load"), [(0.05, 0.25), (0.1, 0.5), (0.9, 1.0)])
def test_the_load_of_a_line_is_its_share_of_the_engines_and_no_more_than_all(work_s: float, load: float) -> None:
    gate = gate_of("a", "b")
    assert [level.load for level in gate.levels(0.0)] == [0.0, 0.0]
    now_s = urgent_for(gate, 150, work_s)
    assert [level.load for level in gate.levels(now_s)] == [pytest.approx(load, rel=0.01), 0.0]
    assert gate.levels(now_s + 300.0)[0].load < 1e-3


def test_a_patient_line_is_kept_as_much_shorter_as_the_urgent_will_overtake_it() -> None:
    stay = []
    for work_s in (0.0, 0.05):
        gate = gate_of("a")
        now_s = urgent_for(gate, 150, work_s)
        entered(gate, ticket("now", at_s=now_s), now_s=now_s)
        later = {"arrived_s": now_s, "ttft_by_s": now_s + PATIENT, "leave_by_s": now_s + 4.0}
        entered(gate, *(one._replace(**later) for one in crowd([1.0] * 9)), now_s=now_s)  # type: ignore[arg-type]
        stay.append(gate.waiting)
    # 4.65 s are planned with. Half of a last one's wait, up to 4 s of it, goes to urgent ones who come later:
    # x + min(x, 4) / 2 with x the seconds ahead of it, 0.1 and those of the others.
    assert stay == [5, 3]


def test_a_missed_objective_is_planned_for_with_less_of_it() -> None:
    gate = gate_of("a", "b")
    entered(gate, ticket("late"), ticket("no objective", ttft_by_s=math.inf))
    gate.first_token("no objective", 9.0)
    assert gate.calibration.margin == POLICY.ttft_margin
    gate.first_token("late", 5.1)
    assert gate.calibration.margin < POLICY.ttft_margin


def test_the_time_that_answers_take_is_learnt_from_those_that_were_served() -> None:
    gate = gate_of("a", service_s_guess=2.0)
    entered(gate, ticket("1"))
    gate.leave("1", 4.0)
    assert gate.service_s_mean == pytest.approx(2.0 + 0.05 * 2.0)
    entered(gate, ticket("2", at_s=4.0), now_s=4.0)
    gate.leave("2", 4.0, served=False)
    assert gate.service_s_mean == pytest.approx(2.1)


def test_a_line_behind_full_slots_is_kept_back_by_them_and_one_behind_prompts_by_compute() -> None:
    slots, compute = gate_of("a", slots=1, waiting_max=100), gate_of("a", slots=50, waiting_max=100)
    for gate in (slots, compute):
        assert gate.calibration.slots_bound == 1.0  # as long as no line was seen, whatever is scarcer counts
        entered(gate, *(ticket(str(i), start_by_s=1e9, ttft_by_s=1e9) for i in range(40)))
    slots.first_token("0", 0.1)  # it decodes for long, and nothing else is asked of that engine
    for look in range(400):
        compute.tick(0.01 * look / 400)  # the engine computes prompts all that time, with slots to spare
        slots.tick(0.2 + 0.05 * look)
    assert compute.calibration.slots_bound < 0.05
    assert slots.calibration.slots_bound == 1.0


def test_a_cache_that_is_full_keeps_a_line_back_like_slots_do() -> None:
    gate = gate_of("a", slots=50, kv_tokens=100, waiting_max=100)
    entered(gate, *(ticket(str(i), start_by_s=1e9, ttft_by_s=1e9, kv_tokens=60) for i in range(5)))
    assert gate.waiting == 4
    gate.first_token("0", 0.1)
    gate.calibration.slots_bound = 0.0
    for look in range(400):
        gate.tick(0.2 + 0.05 * look)
    assert gate.calibration.slots_bound > 0.95
