"""The clients that people use, unchanged, against the running gateway over real vLLM."""

from __future__ import annotations

import json
import subprocess
import sys

import openai
import pytest

from tests.e2e.stack import KEY, Stack

EASY = [{"role": "user", "content": "classify: my parcel has not arrived"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(stack: Stack) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=KEY, max_retries=0)


def test_an_easy_question_is_answered_by_vllm_and_says_so(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=EASY)
    answer = json.loads(raw.parse().choices[0].message.content or "")
    assert set(answer) == {"intent", "sensitivity"}
    assert answer["intent"] == "delivery"
    assert raw.headers["x-baseload-source"] == "base"
    assert 0 < float(raw.headers["x-baseload-usd"]) < 1e-6
    assert "x-baseload-simulated" not in raw.headers


def test_a_hard_question_goes_to_the_frontier_which_says_that_it_is_simulated(client: openai.OpenAI) -> None:
    hard = [{"role": "user", "content": "prove step by step that the square root of 2 is irrational"}]
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=hard, max_tokens=20)
    assert raw.headers["x-baseload-source"] == "api"
    assert raw.headers["x-baseload-simulated"] == "true"
    assert (raw.parse().choices[0].message.content or "").startswith("[simulated]")


def test_a_stream_from_vllm_ends_with_its_usage_and_its_cost(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model="auto", messages=EASY, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert json.loads(text)["intent"] == "delivery"
    usage = chunks[-1].usage
    assert usage is not None and usage.completion_tokens > 0
    assert usage.model_extra and usage.model_extra["cost"] > 0
    assert (chunks[-1].model_extra or {})["baseload"]["source"] == "base"


def test_tools_that_the_local_model_lacks_are_called_through_the_frontier(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": "use the tool"}], tools=[TOOL], tool_choice="required"
    )
    calls = raw.parse().choices[0].message.tool_calls
    assert calls and "city" in json.loads(calls[0].function.arguments)
    assert raw.headers["x-baseload-source"] == "api"


def test_embeddings_come_from_where_they_are_offered_and_fail_clearly_where_not(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model="auto", input="x").data[0].embedding) > 0
    with pytest.raises(openai.BadRequestError, match="lacks embeddings"):
        client.embeddings.create(model="small", input="x")


def test_completions_and_logprobs_work_on_vllm(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="small", prompt="classify: refund please", max_tokens=8)
    assert completion.usage is not None and completion.usage.completion_tokens <= 8
    chat = client.chat.completions.create(model="small", messages=EASY, logprobs=True, max_tokens=4)
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None and len(logprobs.content or []) == 4


def test_models_lists_aliases_and_auto(client: openai.OpenAI) -> None:
    assert {"auto", "small", "fast", "tiny-intent", "frontier"} <= {model.id for model in client.models.list()}


def test_plain_litellm_works_unchanged(stack: Stack) -> None:
    program = (
        "import litellm\n"
        f"kw = dict(model='openai/auto', api_base='{stack.url}/v1', api_key='{KEY}', messages={EASY!r})\n"
        "print(litellm.completion(**kw).choices[0].message.content)\n"
        "print(''.join(c.choices[0].delta.content or '' for c in litellm.completion(**kw, stream=True)))\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    lines = [line for line in output.stdout.splitlines() if line.startswith("{")]
    assert [json.loads(line)["intent"] for line in lines] == ["delivery", "delivery"]


def test_langchain_openai_works_unchanged(stack: Stack) -> None:
    program = (
        "from langchain_openai import ChatOpenAI\n"
        f"chat = ChatOpenAI(model='auto', base_url='{stack.url}/v1', api_key='{KEY}', max_retries=0)\n"
        f"print(chat.invoke('{EASY[0]['content']}').content)\n"
        f"print(''.join(c.content for c in chat.stream('{EASY[0]['content']}')))\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert [json.loads(line)["intent"] for line in output.stdout.splitlines() if line.startswith("{")] == [
        "delivery"
    ] * 2


def test_curl_works_as_the_readme_shows_it(stack: Stack) -> None:
    body = json.dumps({"model": "auto", "messages": EASY})
    command = ["curl", "-s", "-i", f"{stack.url}/v1/chat/completions", "-H", f"authorization: Bearer {KEY}"]
    output = subprocess.run(
        [*command, "-H", "content-type: application/json", "-d", body], capture_output=True, text=True, check=True
    )
    assert "x-baseload-source: base" in output.stdout
    assert r"\"intent\": \"delivery\"" in output.stdout


def test_engine_counters_are_read_from_vllm_live(stack: Stack, client: openai.OpenAI) -> None:
    import urllib.request

    def generated() -> float:
        with urllib.request.urlopen(f"{stack.url}/metrics") as response:
            for line in response.read().decode().splitlines():
                if line.startswith('baseload_pool_state{pool="tiny",what="engine_generation_tokens"}'):
                    return float(line.rpartition(" ")[2])
        return -1.0

    from tests.e2e.stack import wait_until

    before = generated()
    assert before >= 0
    client.chat.completions.create(model="small", messages=EASY)
    wait_until(lambda: generated() > before, 5, "the engine's token counter has moved")
