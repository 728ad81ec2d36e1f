"""``kill -9`` of every part under load: at most what was in flight fails, the service recovers by itself, books balance."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from sqlalchemy import select

from serving.ledger.schema import requests
from tests.e2e.stack import Answer, Stack, load, wait_until

CLIENTS = 8


def rows(stack: Stack) -> dict[str, str]:
    """Status by request id, everything loaded."""
    store = stack.store()
    try:
        with store.reading() as connection:
            return {row.id: row.status for row in connection.execute(select(requests.c.id, requests.c.status))}
    finally:
        store.close()


def killed_under_load(stack: Stack, pattern: str, seconds: float, **body: object) -> tuple[list[Answer], float]:
    """Load with ``CLIENTS`` streams for ``seconds``; after one of them the process is killed."""
    killed_s = 0.0

    def kill() -> None:
        nonlocal killed_s
        time.sleep(1.0)
        killed_s = time.monotonic()
        stack.kill(pattern)

    thread = threading.Thread(target=kill)
    thread.start()
    answers = load(stack.url, CLIENTS, seconds, max_tokens=60, ignore_eos=True, **body)
    thread.join()
    return answers, killed_s


def assert_books_balance(stack: Stack, answers: list[Answer]) -> None:
    """Each complete answer has its one row; each cut one that began is there too, and not as complete."""
    status = rows(stack)
    assert {status.get(answer.decision_id) for answer in answers if answer.complete} == {"complete"}
    cut = [answer for answer in answers if not answer.complete and answer.status == 200]
    assert {status.get(answer.decision_id) for answer in cut} <= {"interrupted", "open"}


def assert_only_what_was_in_flight_failed(answers: list[Answer], killed_s: float) -> None:
    lost = [a for a in answers if not a.complete and a.started_s <= killed_s <= a.ended_s]
    assert len(lost) <= CLIENTS
    assert sum(answer.complete for answer in answers) > len(lost)
    assert any(answer.complete and answer.started_s > killed_s for answer in answers), "nothing was served afterwards"


@pytest.mark.parametrize("pattern", ["serving.process controller", "serving.process gate tiny"])
def test_a_killed_controller_or_gate_costs_no_answer(stack: Stack, pattern: str) -> None:
    answers, _ = killed_under_load(stack, pattern, 5)
    assert all(answer.complete for answer in answers), Counter(a.error for a in answers if not a.complete)
    assert_books_balance(stack, answers)
    wait_until(lambda: stack.pid_of(pattern), 10, "it is back")


def test_a_killed_gateway_is_back_by_itself_and_its_cut_answers_are_marked_interrupted(stack: Stack) -> None:
    answers, killed_s = killed_under_load(stack, "serving.process gateway", 6)
    assert_only_what_was_in_flight_failed(answers, killed_s)
    cut = [answer for answer in answers if not answer.complete and answer.status == 200]
    wait_until(lambda: "open" not in rows(stack).values(), 10, "nothing stays open")
    status = rows(stack)
    assert {status[answer.decision_id] for answer in cut} <= {"interrupted"}
    assert_books_balance(stack, answers)


@pytest.mark.parametrize("pattern", ["EngineCore", "ray::ServeReplica"])
def test_a_killed_engine_is_replaced_and_meanwhile_requests_burst(stack: Stack, pattern: str) -> None:
    answers, killed_s = killed_under_load(stack, pattern, 6)
    assert_only_what_was_in_flight_failed(answers, killed_s)
    later = [answer for answer in answers if answer.started_s > killed_s + 1.0]
    assert later and all(answer.complete for answer in later), Counter(a.error for a in later if not a.complete)
    assert {answer.source for answer in later} == {"api"}
    assert_books_balance(stack, answers)
    wait_until(stack.ready, 150, "a new replica has taken its place")
    home = load(stack.url, clients=1, seconds=1, max_tokens=60, ignore_eos=True)  # shorter ones are cheaper elsewhere
    assert {answer.source for answer in home} == {"base"}
