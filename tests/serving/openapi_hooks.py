"""Loaded by schemathesis before its run: valid requests are led past the door, so that more than the door is tested.

A model that does not exist is a 404, a limit of a thousandth of a cent a 400 and a label that leaves no zone a 503, all
rightly: none of them says anything about the document. What is not valid is left as it is.
"""

from __future__ import annotations

import re
from typing import Any

import schemathesis

MODELS = ("auto", "fast", "small", "frontier", "frail", "taped")
HARMLESS = {
    "x-baseload-usd-max": (re.compile(r"0(\.\d+)?|\d(\.\d+)?e-\d+"), "1"),
    "x-baseload-zones": (re.compile(r"[\s,]*((on-prem|east|west)[\s,]*)*"), "east, on-prem"),
    "x-baseload-labels": (re.compile(r"[\s,]*(public|restricted)?[\s,]*((public|restricted)[\s,]*)*"), "public"),
    "x-litellm-tags": (re.compile(r"[\s,]*((public|restricted)[\s,]*)*"), "public,"),
}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """A valid model becomes one that exists, a valid limit one that can be kept, a valid label one that allows."""
    if isinstance(case.body, dict):
        case.body = _whole(case.body)
        model = case.body.get("model")
        if isinstance(model, str) and 1 <= len(model) <= 256 and model not in MODELS:
            case.body["model"] = "auto"
        metadata = case.body.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("tags"), list):
            metadata["tags"] = ["public" if tag == "restricted" else tag for tag in metadata["tags"]]
    for name, (valid, harmless) in HARMLESS.items():
        if case.headers and name in case.headers and valid.fullmatch(str(case.headers[name])):
            case.headers[name] = harmless


def _whole(value: Any) -> Any:
    """To JSON Schema 5.0 is an integer; nobody sends one so, and the gateway refuses it as every typed reader does."""
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
