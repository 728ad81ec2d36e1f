"""Intent triage without a model: what the request itself says about how much reasoning it needs.

A first, transparent rule; learned triage replaces it through the same function type. Explicit wishes of the client
(``reasoning_effort``, OpenAI's parameter) always win over guesses. Plain set and substring look-ups: on the request
path they cost under 10 microseconds for a thousand characters, a regular expression with the same words over 100.
"""

from __future__ import annotations

from scheduler.ports import Features

_EFFORT = {"none": 0.0, "minimal": 0.05, "low": 0.15, "medium": 0.5, "high": 0.9, "xhigh": 1.0}

_HARD_WORDS = frozenset(
    b"prove proof derive theorem refactor debug optimize optimise architect architecture design implement algorithm "
    b"tradeoff tradeoffs trade-off trade-offs analyze analyse analysis strategy essay".split()
)
_HARD_PHRASES = (
    "step by step",
    "step-by-step",
    "root cause",
    "compare and contrast",
    "write a program",
    "write a plan",
)
_EASY_WORDS = frozenset(
    b"classify classification label extract tag translate translation summarize summarise summary rewrite sentiment".split()
)
_EASY_PHRASES = ("which category", "yes or no")
# A phrase is only looked for where its first word is there: most texts are done after one look at a set.
_FIRST_WORDS = frozenset(phrase.split()[0].encode() for phrase in (*_HARD_PHRASES, *_EASY_PHRASES))
_CODE = ("```", "#include", ";\n", "SELECT ")
_CODE_WORDS = frozenset((b"def", b"class"))

# Reading more than this of a prompt buys no better guess and would cost the request path milliseconds.
_CHARS_READ = 2000
_LOWER_WORDS = bytes(c + 32 if 65 <= c <= 90 else c if 97 <= c <= 122 or c == 45 or c > 127 else 32 for c in range(256))


def heuristic(features: Features) -> float:
    """Difficulty in [0, 1] from explicit effort, wording, code, length and number of turns."""
    effort = _EFFORT.get(features.reasoning_effort)
    if effort is not None:
        return effort
    text = features.text[:_CHARS_READ]
    words = set(text.encode("utf-8", "replace").translate(_LOWER_WORDS).split())
    lower = "" if words.isdisjoint(_FIRST_WORDS) else text.lower()
    difficulty = 0.25
    if not words.isdisjoint(_HARD_WORDS) or _has(lower, _HARD_PHRASES):
        difficulty += 0.45
    elif not words.isdisjoint(_EASY_WORDS) or _has(lower, _EASY_PHRASES):
        difficulty -= 0.25
    if not words.isdisjoint(_CODE_WORDS) or _has(text, _CODE):
        difficulty += 0.15
    if features.input_tokens > 4000:
        difficulty += 0.1
    if features.turns > 6:
        difficulty += 0.05
    if features.has_tools:
        difficulty += 0.1
    return min(1.0, max(0.0, difficulty))


def _has(text: str, phrases: tuple[str, ...]) -> bool:
    if text:
        for phrase in phrases:  # a plain loop: `any` with a generator costs twice as much
            if phrase in text:
                return True
    return False
