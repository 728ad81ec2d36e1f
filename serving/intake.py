"""From an HTTP request to the scheduler's ``Request``: bounded reading, parsing, triage."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from scheduler.config import ClusterConfig
from scheduler.config.cluster import AUTO
from scheduler.core.market import Request
from scheduler.core.supply import Usage
from scheduler.ports import Features, Triage
from serving.access import Access, Account, Headers
from serving.learned import OUTPUT_TOKENS_GUESS, Learned, template_of
from serving.protocol import Parsed, ProtocolError, parse

log = logging.getLogger("baseload.gateway")

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

_DIFFICULTY_UNKNOWN = 0.5


class Intake(NamedTuple):
    """A request, ready to be decided."""

    request: Request
    parsed: Parsed
    asked: str
    labels: tuple[str, ...]
    template: str


class ClientGone(Exception):
    """The client closed the connection before its request was read."""


async def read_body(receive: Receive, headers: Headers, bytes_max: int) -> bytes:
    """The whole body. ProtocolError 413 over ``bytes_max``; the server (``asgi``) ends those that come too slowly."""
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > bytes_max:
        raise ProtocolError(413, f"the body is larger than {bytes_max} bytes", "body_too_large")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body = bytes(message.get("body", b""))
    if not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        size += len(message.get("body", b""))
        if size > bytes_max:
            raise ProtocolError(413, f"the body is larger than {bytes_max} bytes", "body_too_large")
        parts.append(message.get("body", b""))
    return b"".join(parts)


class Reader:
    """Builds requests for one configuration."""

    def __init__(
        self, config: ClusterConfig, access: Access, triage: Triage, learned: Learned, clock: Callable[[], float]
    ) -> None:
        self._access, self._triage, self._learned, self._clock = access, triage, learned, clock
        self._output_tokens_max = config.policy.bounds.output_tokens_max
        self.names: dict[str, frozenset[str] | None] = {m.name: frozenset({m.name}) for m in config.models}
        self.names |= {alias.name: frozenset(alias.models) for alias in config.aliases}
        self.names[AUTO] = None

    def read(self, endpoint: str, raw: bytes, headers: Headers, account: Account) -> Intake:
        """Parse, apply the account's terms, triage. Raises ProtocolError 4xx naming what is wrong."""
        parsed = parse(endpoint, raw)
        body = parsed.body
        if body.model not in self.names:
            known = ", ".join(sorted(self.names))
            raise ProtocolError(
                404, f"the model {body.model!r} does not exist (known: {known})", "model_not_found", "model"
            )
        limit = self._output_tokens_max
        for name, tokens in (("max_completion_tokens", body.max_completion_tokens), ("max_tokens", body.max_tokens)):
            if tokens is not None and tokens > limit:
                raise ProtocolError(400, f"{name} {tokens} is above the limit of {limit}", "invalid_value", name)
        asked_tokens = parsed.output_tokens_asked
        terms = self._access.terms(account, headers, _tags(body.metadata))
        difficulty = self._difficulty(parsed)
        template = template_of(parsed)
        output_tokens = output_tokens_max = 0
        if endpoint != "embeddings":
            expected = self._learned.output_tokens(account.name, template, parsed.input_tokens)
            output_tokens_max = (asked_tokens or max(OUTPUT_TOKENS_GUESS, expected)) * parsed.choices
            output_tokens = min(output_tokens_max, expected * parsed.choices)
        now_s = self._clock()
        session = (headers.get(b"x-session-id") or headers.get(b"x-conversation-id") or b"")[:128].decode("latin-1")
        prefix = self._learned.prefix(account.name, session, now_s)
        request = Request(
            id=f"{int(now_s * 1000):012x}{os.urandom(10).hex()}",  # ordered by time: kind to the ledger's index
            tenant=account.name,
            service_class=terms.service_class,
            models=self.names[body.model],
            usage=Usage(parsed.input_tokens, 0, output_tokens, searches=parsed.searches),
            difficulty=min(1.0, max(0.0, difficulty)),
            needs=parsed.needs,
            zones=terms.zones,
            usd_max=terms.usd_max,
            deadline_s=now_s + terms.deadline_s,
            arrived_s=now_s,
            session=session,
            budgeted=account.budget is not None,
            output_tokens_max=output_tokens_max,
            output_tokens_asked=0 if endpoint == "embeddings" else asked_tokens or 1,
            prefix_offer=prefix.offer_id,
            prefix_tokens=prefix.tokens,
        )
        return Intake(request, parsed, body.model, terms.labels, template)

    def _difficulty(self, parsed: Parsed) -> float:
        """Triage; a site's own triage that fails must not stop requests, so they count as of medium difficulty."""
        try:
            return self._triage(
                Features(
                    parsed.text, parsed.input_tokens, parsed.turns, parsed.reasoning_effort, "tools" in parsed.needs
                )
            )
        except Exception as error:  # an extension may raise anything; its message might quote the prompt
            log.warning("triage has failed", extra={"error": type(error).__name__})
            return _DIFFICULTY_UNKNOWN


def _tags(metadata: dict[str, Any] | None) -> list[str]:
    """``metadata.tags``, as litellm's clients send them; anything else there is the provider's business."""
    tags = (metadata or {}).get("tags")
    if tags is None:
        return []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ProtocolError(400, "metadata.tags must be a list of strings", "invalid_value", "metadata.tags")
    return tags
