"""From a YAML file to a checked model, or a ``ConfigError`` that names every path and reason: for every file people write."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

Document = TypeVar("Document", bound=BaseModel)

_MERGE = "tag:yaml.org,2002:merge"
# Where a secret may have been written by mistake: its value is never repeated in an error.
_SECRET = frozenset({"keys", "key", "api_key", "sha256", "env", "litellm_params"})
_BYTES_MAX = 4 * 1024 * 1024


class ConfigError(ValueError):
    """The configuration cannot be used. ``problems`` holds one line each: path, then reason."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join([f"{path}: not a usable configuration", *(f"  {p}" for p in problems)]))


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML would otherwise resolve in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue  # `<<: *anchor`, resolved by SafeLoader; a key of the mapping itself wins over a merged one
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_document(path: Path, model: type[Document]) -> Document:
    """Read ``path`` as YAML and check it as ``model``. Raises ConfigError and nothing else."""
    try:
        if path.stat().st_size > _BYTES_MAX:
            raise ConfigError(path, [f"larger than {_BYTES_MAX} bytes"])
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except ConfigError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, [f"cannot be read: {error}"]) from error
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:  # ValueError: 2024-13-01 is no date
        raise ConfigError(path, [f"not YAML: {error}"]) from error
    if not isinstance(document, dict):
        raise ConfigError(path, ["(root): must be a mapping with `version: 1`"])
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise ConfigError(path, _problems(error)) from error


def _problems(error: ValidationError) -> list[str]:
    lines: list[str] = []
    items = error.errors(include_url=False, include_context=False, include_input=True)
    for item in items:
        n = len(item["loc"])
        if item["type"] == "too_short" and any(len(o["loc"]) > n and o["loc"][:n] == item["loc"] for o in items):
            continue  # pydantic counts only sound items: a list is not empty because its one item is wrong
        message = item["msg"].removeprefix("Value error, ")
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"]).removeprefix(".")
        where = where or ("''" if item["loc"] else "")  # YAML allows an empty key
        if item["type"] == "extra_forbidden":
            message = "unknown field"
        elif item["type"] not in ("missing", "value_error") and _SECRET.isdisjoint(item["loc"]):
            message = f"{message} (got {str(item['input'])[:60]!r})"
        # A cross-reference failure carries its own paths, one per part.
        lines += message.split("; ") if not where else [f"{where}: {message}"]
    return lines
