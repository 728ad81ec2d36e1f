"""What a gateway learns from answers: how long they are, and where a session's prompt is cached. No text is kept."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from typing import NamedTuple

from scheduler.core.learning import OutputLengths
from scheduler.core.market import Outcome, Request
from scheduler.core.supply import Offer
from serving.protocol import ChatBody, Parsed

# Answer length assumed before anything was learnt; only prices the quote, never cuts the answer.
OUTPUT_TOKENS_GUESS = 256
_SESSIONS_MAX = 8192
_PREFIX_S_MAX = 600.0
_SALT = os.urandom(16)  # hashes of this process say nothing to another


def template_of(parsed: Parsed) -> str:
    """A short, salted hash of the first system or developer message; '' where there is none."""
    messages = parsed.body.messages if isinstance(parsed.body, ChatBody) else ()
    for message in messages:
        if message.role in ("system", "developer"):
            content = message.content or ""
            text = content if isinstance(content, str) else "\n".join(part.text for part in content)
            return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=_SALT).hexdigest()
    return ""


class Prefix(NamedTuple):
    """Where a session's last answer came from, and the tokens of its prompt and answer, as the gateway counts them."""

    offer_id: str
    tokens: int
    at_s: float


NO_PREFIX = Prefix("", 0, 0.0)


class Learned:
    """Soft state of one gateway process, bounded."""

    def __init__(self) -> None:
        self._lengths = OutputLengths(float(OUTPUT_TOKENS_GUESS))
        self._sessions: OrderedDict[tuple[str, str], Prefix] = OrderedDict()

    def output_tokens(self, tenant: str, template: str, input_tokens: int) -> int:
        """Expected tokens of the next answer to an input of that length, as the gateway counts it."""
        return max(1, round(self._lengths.expected(tenant, template, input_tokens)))

    def prefix(self, tenant: str, session: str, now_s: float) -> Prefix:
        """What the session's last pool still has in its cache, as far as is known."""
        found = self._sessions.get((tenant, session), NO_PREFIX) if session else NO_PREFIX
        return found if now_s - found.at_s < _PREFIX_S_MAX else NO_PREFIX

    def answered(
        self, request: Request, template: str, choices: int, asked_tokens: int | None, offer: Offer, outcome: Outcome
    ) -> None:
        """A whole answer. What ``max_tokens`` has cut short says only that it would have been longer."""
        usage = outcome.usage
        if not outcome.measured or "embeddings" in request.needs:
            return
        tokens = round(max(0, usage.output_tokens - usage.reasoning_tokens) / offer.tokens_ratio)
        each = round(tokens / max(1, choices))
        is_cut = asked_tokens is not None and each >= asked_tokens
        read = request.usage.input_tokens
        if not is_cut or each > self._lengths.expected(request.tenant, template, read):
            self._lengths.observe(request.tenant, template, each, read)
        if request.session:
            self._remember(request, offer, Prefix(offer.id, request.usage.input_tokens + tokens, outcome.ended_s))

    def _remember(self, request: Request, offer: Offer, prefix: Prefix) -> None:
        key = (request.tenant, request.session)
        self._sessions.pop(key, None)
        if offer.kind != "api":
            self._sessions[key] = prefix
            while len(self._sessions) > _SESSIONS_MAX:
                self._sessions.popitem(last=False)
