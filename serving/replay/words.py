"""Prompts of a wanted length and difficulty, the same for the same seed and number, and of no meaning."""

from __future__ import annotations

import random

# Three letters and a space: one token in the usual tokenizers (the embedded model's too), and four bytes, which is what
# gateways count as one.
_TEXT = "the and for not you all any can was one our out get has how new two did own run add ago ask but are yet"
_WORDS = tuple(_TEXT.split())
# Role and frame of a message are about this many tokens, in JSON as in chat templates.
_FRAME_TOKENS = 8
# Two blocks of a prefix cache begin differently; what follows may repeat, as blocks are hashed with all before them.
_OWN_WORDS = 64
_SHELF = " ".join(random.Random(0).choices(_WORDS, k=8192))  # noqa: S311 - filler, no secrets

# First words by the difficulty that the built-in triage reads from them (scheduler/quality/triage.py). Each word of them
# replaces one of the filler.
_LEADS = ((0.0, "classify"), (0.15, "``` classify"), (0.25, ""), (0.4, "```"), (0.7, "prove"), (0.85, "``` prove"))


def prompt(seed: int, number: int, tokens: int, difficulty: float) -> str:
    """About ``tokens`` tokens for request ``number``, of the nearest difficulty that built-in triage can be told of.

    No two prompts share their beginning, so that no cache has seen one.
    """
    lead = min(_LEADS, key=lambda known: abs(known[0] - difficulty))[1]
    chance = random.Random(f"{seed}/{number}")  # noqa: S311
    count = max(1, tokens - _FRAME_TOKENS - len(lead.split()))
    text = " ".join([*lead.split(), *chance.choices(_WORDS, k=min(count, _OWN_WORDS))])
    left = 4 * (count - _OWN_WORDS)
    if left > 0:
        text += " " + (_SHELF + " ")[: left - 1] if left <= len(_SHELF) else " " + _repeated(left - 1)
    return text


def _repeated(size: int) -> str:
    return ((_SHELF + " ") * (size // len(_SHELF) + 1))[:size]
