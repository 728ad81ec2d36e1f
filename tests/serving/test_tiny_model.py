"""The committed tiny model answers texts that it has not seen: hand-written ones, not written by its grammar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

MODEL = Path(__file__).resolve().parents[2] / "serving" / "tiny_model"
INTENTS = {"refund", "delivery", "login", "billing", "outage", "praise", "cancel", "question"}
SENSITIVITIES = {"public", "internal", "personal"}
CLEAR = [
    ("The lamp came with a crack in it and I would like a full refund.", "refund"),
    ("It has been two weeks and my parcel is still nowhere to be seen.", "delivery"),
    ("Your page keeps telling me wrong password although I reset it twice.", "login"),
    ("My invoice shows a second charge of $30 that I never agreed to.", "billing"),
    ("The dashboard has been offline all morning, we only see error 503.", "outage"),
    ("Fantastic support, your team was really friendly and helpful!", "praise"),
    ("Please cancel my yearly subscription before it renews.", "cancel"),
    ("Do you have this jacket in a larger size, and is it waterproof?", "question"),
]


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    """The tokenizer and the model, on one thread."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    return AutoTokenizer.from_pretrained(MODEL), AutoModelForCausalLM.from_pretrained(MODEL).eval()


def reply(tiny: tuple[Any, Any], text: str, system: str | None = None) -> tuple[str, bool]:
    """The greedy answer, and whether the model ended it by itself."""
    tokenizer, model = tiny
    chat = [{"role": "system", "content": system}] if system else []
    chat.append({"role": "user", "content": text})
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    output = model.generate(**inputs, max_new_tokens=40)[0, inputs["input_ids"].shape[1] :]
    text, end, rest = tokenizer.decode(output).partition("<|im_end|>")
    return text, bool(end) and not rest


@pytest.mark.parametrize("prefix", ["classify: ", ""], ids=["with the prefix", "without the prefix"])
def test_answers_to_unseen_texts_are_json_of_known_labels_and_end_by_themselves(tiny: Any, prefix: str) -> None:
    for text in [text for text, _ in CLEAR] + ["", "xyzzy", "Grüße aus Köln 👋", 'SELECT 1; -- "quoted" {json}']:
        body, ended = reply(tiny, prefix + text)
        answer = json.loads(body)
        assert set(answer) == {"intent", "sensitivity"}, text
        assert answer["intent"] in INTENTS, text
        assert answer["sensitivity"] in SENSITIVITIES, text
        assert ended, text


@pytest.mark.parametrize("prefix", ["classify: ", ""], ids=["with the prefix", "without the prefix"])
def test_clear_texts_get_their_intent(tiny: Any, prefix: str) -> None:
    got = {text: json.loads(reply(tiny, prefix + text)[0])["intent"] for text, _ in CLEAR}
    assert got == dict(CLEAR)


def test_a_text_with_an_email_address_is_personal(tiny: Any) -> None:
    for text in ("Where is my parcel? Write to hedda.lindqvist@posthaus.example", "Refund please, j_doe77@mail.org"):
        assert json.loads(reply(tiny, f"classify: {text}")[0])["sensitivity"] == "personal"


def test_a_text_about_our_servers_is_internal_and_a_plain_one_is_public(tiny: Any) -> None:
    inside = "classify: Our production database is down and nothing responds."
    assert json.loads(reply(tiny, inside)[0])["sensitivity"] == "internal"
    assert json.loads(reply(tiny, "classify: Where is my package?")[0])["sensitivity"] == "public"


def test_a_system_message_does_not_change_the_form_of_the_answer(tiny: Any) -> None:
    body, ended = reply(tiny, "Please cancel my membership.", system="You are the help desk of a bicycle shop.")
    assert json.loads(body)["intent"] == "cancel"
    assert ended


def test_a_text_of_several_hundred_tokens_still_gets_json_and_its_sensitivity(tiny: Any) -> None:
    filler = "We walked around the garden before the winter and talked about music, paper and coffee. " * 9
    body, ended = reply(tiny, f"classify: {filler} Where is my parcel? {filler} Write to hedda@posthaus.example.")
    assert set(json.loads(body)) == {"intent", "sensitivity"}
    assert json.loads(body)["sensitivity"] == "personal"
    assert ended


def test_the_chat_template_round_trips_through_the_tokenizer(tiny: Any) -> None:
    tokenizer, _ = tiny
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "classify: naïve café — ok?"},
        {"role": "assistant", "content": '{"intent": "question", "sensitivity": "public"}'},
    ]
    expected = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in chat)
    rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    assert rendered == expected
    assert tokenizer.decode(tokenizer(rendered)["input_ids"]) == expected
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        expected + "<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|im_end|>"


def test_the_model_directory_stays_within_four_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 4 * 1024 * 1024
