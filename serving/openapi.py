"""The published OpenAPI document: what the gateway checks, no more; unknown fields pass through to the source."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_MODEL = {"type": "string", "minLength": 1, "maxLength": 256, "description": "An alias, a model, or `auto`."}
_SHARED: Json = {
    "model": _MODEL,
    "stream": {"type": ["boolean", "null"]},
    "stream_options": {
        "type": ["object", "null"],
        "properties": {"include_usage": {"type": ["boolean", "null"]}},
    },
    "max_tokens": {"type": ["integer", "null"], "minimum": 1},
    "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1},
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
    "user": {"type": ["string", "null"]},
    "metadata": {
        "type": ["object", "null"],
        "properties": {"tags": {"type": ["array", "null"], "items": {"type": "string"}}},
    },
}
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
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        **_SHARED,
        "messages": {"type": "array", "minItems": 1, "maxItems": 10000, "items": _MESSAGE},
        "tools": {"type": ["array", "null"], "items": {"type": "object"}},
        "response_format": {"type": ["object", "null"]},
        "logprobs": {"type": ["boolean", "null"]},
        "reasoning_effort": {"type": ["string", "null"]},
    },
}
_COMPLETION: Json = {
    "type": "object",
    "required": ["model", "prompt"],
    "properties": {**_SHARED, "prompt": _TEXT_OR_TOKENS, "logprobs": {"type": ["integer", "null"]}},
}
_EMBEDDING: Json = {
    "type": "object",
    "required": ["model", "input"],
    "properties": {**_SHARED, "stream": {"enum": [False, None]}, "input": _TEXT_OR_TOKENS},
}
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
    "429": "The tenant's budget is spent; see Retry-After.",
    "503": "Nothing that may serve this can take it now; see Retry-After.",
    "504": "Not answered in time.",
}
_HEADERS = {
    "x-baseload-labels": "Data labels of this request, separated by commas; an unknown one is refused.",
    "x-baseload-zones": "Zones that may serve this request; may only narrow what the tenant allows.",
    "x-baseload-class": "Service class, one of the tenant's.",
    "x-baseload-usd-max": "Most that this request may cost, in USD.",
    "x-llm-d-slo-ttft-ms": "Objective for the time to first token, in milliseconds.",
    "x-session-id": "Groups the requests of one conversation.",
}


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _errors() -> Json:
    return {code: {"description": text, "content": _content(_ERROR)} for code, text in _ERRORS.items()}


def _post(summary: str, schema: Json, streams: bool) -> Json:
    ok = _content({"type": "object"})
    if streams:
        ok["text/event-stream"] = {"schema": {"type": "string"}}
    parameters = [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in _HEADERS.items()
    ]
    return {
        "post": {
            "summary": summary,
            "parameters": parameters,
            "requestBody": {"required": True, "content": _content(schema)},
            "responses": {"200": {"description": "The answer; headers say where it ran, why and at what cost.",
                                  "content": ok}, **_errors()},
        }
    }  # fmt: skip


def _get(summary: str, codes: Json, open_to_all: bool = True) -> Json:
    operation: Json = {"summary": summary, "responses": codes}
    if open_to_all:
        operation["security"] = []
    return {"get": operation}


def document() -> Json:
    """The OpenAPI 3.1 document served at ``/openapi.json``."""
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
            "/v1/chat/completions": _post("Chat completion", _CHAT, True),
            "/v1/completions": _post("Text completion", _COMPLETION, True),
            "/v1/embeddings": _post("Embeddings, where a source offers them", _EMBEDDING, False),
            "/v1/explain": _post("The merit order for a chat request, without running it", _CHAT, False),
            "/v1/models": _get("Models and aliases", {**ok, **unauthorized}, open_to_all=False),
            "/healthz": _get("Alive", ok),
            "/readyz": _get("Ready to serve", {**ok, **not_ready}),
            "/metrics": _get("Prometheus metrics", text),
            "/openapi.json": _get("This document", ok),
        },
    }
