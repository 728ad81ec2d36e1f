"""Intent triage without a model: what the request itself says about how much reasoning it needs.

A first, transparent rule; learned triage replaces it through the same function type. Explicit wishes of the client
(``reasoning_effort``, OpenAI's parameter) always win over guesses.
"""

from __future__ import annotations

import re

from scheduler.ports import Features

_EFFORT = {"none": 0.0, "minimal": 0.05, "low": 0.15, "medium": 0.5, "high": 0.9, "xhigh": 1.0}

_HARD = re.compile(
    r"\b(prove|proof|derive|theorem|step[- ]by[- ]step|refactor|debug|optimi[sz]e|architect\w*|design an?|implement|"
    r"algorithm|trade-?offs?|analy[sz]e|root cause|strategy|compare and contrast|write (?:a|an|the) (?:essay|plan|"
    r"program|function))\b",
    re.IGNORECASE,
)
_EASY = re.compile(
    r"\b(classif\w*|label|extract|tag|translate|summari[sz]e|rewrite|which category|sentiment|yes or no)\b", re.IGNORECASE
)
_CODE = re.compile(r"```|\bdef |\bclass |#include|;\s*\n|\bSELECT\b")

# Reading more than this of a prompt buys no better guess and would cost the request path milliseconds.
_CHARS_READ = 2000


def heuristic(features: Features) -> float:
    """Difficulty in [0, 1] from explicit effort, wording, code, length and number of turns."""
    effort = _EFFORT.get(features.reasoning_effort)
    if effort is not None:
        return effort
    text = features.text[:_CHARS_READ]
    difficulty = 0.25
    if _HARD.search(text):
        difficulty += 0.45
    elif _EASY.search(text):
        difficulty -= 0.25
    if _CODE.search(text):
        difficulty += 0.15
    if features.input_tokens > 4000:
        difficulty += 0.1
    if features.turns > 6:
        difficulty += 0.05
    if features.has_tools:
        difficulty += 0.1
    return min(1.0, max(0.0, difficulty))
