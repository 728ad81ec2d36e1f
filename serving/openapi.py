"""The published OpenAPI document: what the gateway checks, no more; unknown fields pass through to the source.

Built for one configuration: the labels, zones and service classes that requests may name are those of its site file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scheduler.config import ClusterConfig

Json = dict[str, Any]

_PART: Json = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": {"type": "string"}, "text": {"type": "string"}},
}
_MESSAGE: Json = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string", "minLength": 1, "maxLength": 64},
        "content": {"type": ["string", "array", "null"], "items": _PART},
    },
}
_TEXT_OR_TOKENS: Json = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        {"type": "array", "minItems": 1, "items": {"type": "integer"}},
        {"type": "array", "minItems": 1, "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}
_CHAT: Json = {
    "messages": {"type": "array", "minItems": 1, "maxItems": 10000, "items": _MESSAGE},
    "tools": {"type": ["array", "null"], "items": {"type": "object"}},
    "response_format": {"type": ["object", "null"]},
    "logprobs": {"type": ["boolean", "null"]},
    "reasoning_effort": {"type": ["string", "null"]},
}
_COMPLETION: Json = {
    "prompt": _TEXT_OR_TOKENS,
    "best_of": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
    "logprobs": {"type": ["integer", "null"]},
}
_EMBEDDING: Json = {"input": _TEXT_OR_TOKENS, "stream": {"enum": [False, None]}}
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_ERRORS = {
    "400": "The request is not valid; the message names what is wrong.",
    "401": "No API key, or an unknown one.",
    "404": "The model does not exist.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "422": "The source found the request not processable.",
    "431": "The head of the request is too large.",
    "429": "The tenant's budget is spent; see Retry-After.",
    "500": "A fault of the gateway itself.",
    "503": "Nothing that may serve this can take it now; see Retry-After.",
    "504": "Not answered in time.",
}
_RETRY = ("429", "503", "504")
_USD: Json = {"type": "number", "minimum": 0}
_NUMBER: Json = {"type": "number", "minimum": 0, "exclusiveMaximum": 1e9}
_TEXT: Json = {"type": "string"}
# On every answer of a source; a stream's USD is the estimate.
_ANSWER_HEADERS: Json = {
    "x-baseload-source": {"enum": ["base", "spot", "api"]},
    "x-baseload-model": _TEXT,
    "x-baseload-offer": _TEXT,
    "x-baseload-decision-id": _TEXT,
    "x-baseload-usd": _USD,
    "x-baseload-reason": _TEXT,
    "x-baseload-market-version": {"type": "integer", "minimum": 1},
    "x-litellm-response-cost": _USD,
    "x-litellm-model-id": _TEXT,
    "x-litellm-call-id": _TEXT,
    "x-litellm-attempted-fallbacks": {"type": "integer", "minimum": 0},
}


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _errors() -> Json:
    errors: Json = {code: {"description": text, "content": _content(_ERROR)} for code, text in _ERRORS.items()}
    for code in _RETRY:
        errors[code]["headers"] = {"retry-after": {"schema": {"type": "integer", "minimum": 1}}}
    return errors


def _listed(names: Iterable[str]) -> Json:
    """A header with any of ``names``, separated by commas; blanks around them mean nothing."""
    item = "[ \\t]*(" + "|".join(name.replace(".", r"\.") for name in names) + ")?[ \\t]*"
    return {"type": "string", "pattern": f"^{item}(,{item})*$"}


def _parameters(config: ClusterConfig) -> list[Json]:
    labels = _listed(label.name for label in config.labels)
    service_class = {"enum": [spec.name for spec in config.service_classes]}
    headers: dict[str, tuple[str, Json]] = {
        "x-baseload-labels": ("Data labels of this request, separated by commas; an unknown one is refused.", labels),
        "x-litellm-tags": ("As x-baseload-labels; both count.", labels),
        "x-baseload-zones": (
            "Zones that may serve this request; may only narrow what the tenant allows.",
            _listed(config.zones),
        ),
        "x-baseload-class": ("Service class, one of the tenant's.", service_class),
        "x-llm-d-inference-objective": ("As x-baseload-class; it wins where both are given.", service_class),
        "x-baseload-usd-max": ("Most that this request may cost, in USD.", _NUMBER),
        "x-llm-d-slo-ttft-ms": ("Objective for the time to first token, in milliseconds.", _NUMBER),
        "x-session-id": ("Groups the requests of one conversation.", _TEXT),
    }
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, (text, schema) in headers.items()
    ]


def _body(config: ClusterConfig, own: Json, *required: str) -> Json:
    """A request body: what all endpoints share, and what is ``own`` to one."""
    tokens = {"type": ["integer", "null"], "minimum": 1, "maximum": config.policy.bounds.output_tokens_max}
    names = ["auto", *(alias.name for alias in config.aliases), *(model.name for model in config.models)]
    label = {"enum": [label.name for label in config.labels]} if config.labels else False
    shared: Json = {
        "model": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "description": "An alias, a model, or `auto`.",
            "examples": names,
        },
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        },
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "user": {"type": ["string", "null"]},
        "metadata": {
            "type": ["object", "null"],
            "properties": {"tags": {"type": ["array", "null"], "items": label}},
        },
    }
    return {"type": "object", "required": ["model", *required], "properties": {**shared, **own}}


def _post(summary: str, schema: Json, parameters: list[Json], streams: bool, answered: bool = True) -> Json:
    ok: Json = {"description": "The decision; nothing was run.", "content": _content({"type": "object"})}
    if answered:
        ok["description"] = "The answer; headers say where it ran, why and at what cost."
        ok["headers"] = {name: {"required": True, "schema": each} for name, each in _ANSWER_HEADERS.items()}
    if streams:
        ok["content"]["text/event-stream"] = {}  # chunks as the source sends them, then [DONE]
    return {
        "post": {
            "summary": summary,
            "parameters": parameters,
            "requestBody": {"required": True, "content": _content(schema)},
            "responses": {"200": ok, **_errors()},
        }
    }


def _get(summary: str, codes: Json, open_to_all: bool = True) -> Json:
    operation: Json = {"summary": summary, "responses": codes}
    if open_to_all:
        operation["security"] = []
    return {"get": operation}


def document(config: ClusterConfig) -> Json:
    """The OpenAPI 3.1 document served at ``/openapi.json``."""
    headers = _parameters(config)
    chat = _body(config, _CHAT, "messages")
    completion, embedding = _body(config, _COMPLETION, "prompt"), _body(config, _EMBEDDING, "input")
    ok = {"200": {"description": "OK", "content": _content({"type": "object"})}}
    unauthorized = {"401": {"description": _ERRORS["401"], "content": _content(_ERROR)}}
    not_ready = {"503": {"description": "Not ready; says why.", "content": _content({"type": "object"})}}
    text = {"200": {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Baseload", "version": "1", "description": "OpenAI-compatible; routed by price."},
        "security": [{"key": []}],
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/v1/chat/completions": _post("Chat completion", chat, headers, True),
            "/v1/completions": _post("Text completion", completion, headers, True),
            "/v1/embeddings": _post("Embeddings, where a source offers them", embedding, headers, False),
            "/v1/explain": _post("The merit order of a chat request, not run", chat, headers, False, False),
            "/v1/models": _get("Models and aliases", {**ok, **unauthorized}, open_to_all=False),
            "/v1/prices": _get("The price board", {**ok, **unauthorized, **not_ready}, open_to_all=False),
            "/healthz": _get("Alive", ok),
            "/readyz": _get("Ready to serve", {**ok, **not_ready}),
            "/metrics": _get("Prometheus metrics", text),
            "/openapi.json": _get("This document", ok),
        },
    }
