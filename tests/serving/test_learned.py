"""What a gateway learns from answers: their length by tenant and template, and where a session's prompt is cached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from scheduler.core.market import Outcome
from scheduler.core.supply import Usage
from serving.learned import NO_PREFIX, OUTPUT_TOKENS_GUESS, Learned, template_of
from serving.protocol import parse
from tests.support import virtual_time
from tests.support.dispatch_cases import ANSWER
from tests.support.fake_sources import Plan
from tests.support.local_town import CLOUD, POOL, LocalTown
from tests.support.markets import NOW_S, api, offer, request

HOME, AWAY = offer("own/small"), api("cloud/small", 0.1)
SHORT = Plan("answer", parts=(ANSWER,), whole=ANSWER)  # three tokens


def answered(learned: Learned, tokens: int, template: str = "a", asked: int | None = None, **fields: Any) -> None:
    given = {"offer": HOME, "choices": 1, "at_s": NOW_S, "session": "s", "tenant": "t", "measured": True} | fields
    outcome = Outcome(given["offer"].id, "complete", NOW_S, given["at_s"], Usage(90, 0, tokens), 0.0)
    outcome = replace(outcome, measured=given["measured"])
    made = request(session=given["session"], tenant=given["tenant"], usage=Usage(100, 0, 50))
    learned.answered(made, template, given["choices"], asked, given["offer"], outcome)


def chat(*messages: dict[str, Any]) -> str:
    return template_of(parse("chat", msgspec.json.encode({"model": "m", "messages": messages})))


def test_lengths_are_learnt_by_tenant_and_template_and_begin_with_the_guess() -> None:
    learned = Learned()
    assert learned.output_tokens("t", "a", 100) == OUTPUT_TOKENS_GUESS
    for _ in range(200):
        answered(learned, 10, "a")
        answered(learned, 1000, "b")
    assert learned.output_tokens("t", "a", 100) < 100
    assert learned.output_tokens("t", "b", 100) > 900
    assert 100 < learned.output_tokens("t", "never seen", 100) < 900
    assert learned.output_tokens("somebody else", "a", 100) == OUTPUT_TOKENS_GUESS


def test_only_measured_and_whole_answers_teach() -> None:
    learned = Learned()
    answered(learned, 1, measured=False)
    answered(learned, 5, asked=5)  # cut short: it would have been longer
    assert learned.output_tokens("t", "a", 100) == OUTPUT_TOKENS_GUESS
    answered(learned, 5, asked=6)
    assert learned.output_tokens("t", "a", 100) < OUTPUT_TOKENS_GUESS
    before = learned.output_tokens("t", "c", 100)
    answered(learned, 5000, "c", asked=5000)
    assert learned.output_tokens("t", "c", 100) > before


def test_lengths_are_of_one_choice_in_the_gateways_tokens_and_without_reasoning() -> None:
    learned = Learned()
    odd = replace(AWAY, tokens_ratio=2.0)
    usage = Usage(90, 0, 900, reasoning_tokens=100)
    for _ in range(300):
        outcome = Outcome(odd.id, "complete", NOW_S, NOW_S, usage, 0.0, measured=True)
        learned.answered(request(), "a", 4, None, odd, outcome)
    assert learned.output_tokens("t", "a", 100) == pytest.approx((900 - 100) / 2.0 / 4, rel=0.3)


def test_the_template_is_the_first_system_or_developer_message_and_nothing_of_its_text() -> None:
    terse = {"role": "system", "content": "be terse"}
    user = {"role": "user", "content": "hello"}
    assert chat(user) == ""
    assert chat(terse, user) == chat(terse, {"role": "user", "content": "other"}, {"role": "system", "content": "late"})
    assert chat({"role": "developer", "content": [{"type": "text", "text": "be terse"}]}) == chat(terse)
    assert chat({"role": "system", "content": "be verbose"}) != chat(terse)
    assert len(chat(terse)) == 16 and "terse" not in chat(terse)
    assert template_of(parse("completions", b'{"model":"m","prompt":"hello"}')) == ""


def test_a_session_is_expected_where_its_last_answer_came_from_for_ten_minutes() -> None:
    learned = Learned()
    answered(learned, 30)
    assert learned.prefix("t", "s", NOW_S + 599.0)[:2] == ("own/small", 130)
    assert learned.prefix("t", "s", NOW_S + 600.0) == NO_PREFIX
    assert learned.prefix("t", "another", NOW_S) == learned.prefix("t", "", NOW_S) == NO_PREFIX
    assert learned.prefix("another tenant", "s", NOW_S) == NO_PREFIX
    answered(learned, 30, offer=AWAY)
    assert learned.prefix("t", "s", NOW_S) == NO_PREFIX


def test_sessions_are_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.learned._SESSIONS_MAX", 2)
    learned = Learned()
    for session in ("a", "b", "a", "c"):
        answered(learned, 30, session=session)
    known = [session for session in "abc" if learned.prefix("t", session, NOW_S) != NO_PREFIX]
    assert known == ["a", "c"]


def test_what_was_learnt_makes_the_next_quote_and_ticket() -> None:
    async def run() -> None:
        town = LocalTown({POOL: [SHORT], CLOUD: [SHORT]})
        before = await town.explain("conversation")
        for _ in range(40):
            await town.ask(session="conversation")
        after, elsewhere = await town.explain("conversation"), await town.explain("new")
        assert before["request"]["output_tokens"] == OUTPUT_TOKENS_GUESS
        assert after["request"]["output_tokens"] < 80
        assert (await town.explain(max_tokens=2))["request"]["output_tokens"] == 2
        [here], [there] = ([q for q in made["merit_order"] if q["offer"] == POOL] for made in (after, elsewhere))
        assert here["usd_avoidable"] <= there["usd_avoidable"]
        first, last = town.gate.asked[0], town.gate.asked[-1]
        assert last.work_s < first.work_s
        assert last.prefill_s == 0.0 < first.prefill_s  # the whole prompt is in the cache of the last answer
        cheapest = min(quote["usd_at_most"] for quote in after["merit_order"])
        assert cheapest == min(quote["usd_at_most"] for quote in before["merit_order"])

    virtual_time.run(run())


def test_a_quote_is_held_to_the_learnt_length_where_answers_are_longer_than_the_guess() -> None:
    async def run() -> None:
        usage = {"prompt_tokens": 12, "completion_tokens": 4000}
        body = msgspec.json.encode({"choices": [], "usage": usage})
        town = LocalTown({POOL: [Plan("answer", parts=(body,), whole=body)], CLOUD: [SHORT]})
        before = (await town.explain())["merit_order"][-1]
        for _ in range(40):
            await town.ask()
        after = (await town.explain())["merit_order"][-1]
        assert after["usd_avoidable"] > 5 * before["usd_avoidable"]
        assert after["usd_at_most"] == after["usd_avoidable"]

    virtual_time.run(run())
