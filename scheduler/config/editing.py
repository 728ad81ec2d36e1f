"""Changes to a YAML file that people keep: only the lines that change are touched, and comments and order stay.

read(text)                           the data
put(text, path, value, comment)      set a key, new or old
insert(text, path, value, comment)   a new item of a sequence, before the one at this place
remove(text, path, comment)          drop an item of a sequence; the comment stands in its place

Each is done on the text, where the parser says that the parts are, and on the data. Where the text then does not say what the
data say (aliases, odd layouts), the data are written anew: comments are lost, meaning never is. Everything else is a
``LookupError``: the path must be there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

Path = tuple[str | int, ...]

_WIDTH = 120
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where the system has it
_REST_OF_LINE = re.compile(r"[ \t]*(#[^\n]*)?(?=\n|\Z)")


def read(text: str) -> Any:
    """The data of a file that was read and checked before."""
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader


def put(text: str, path: Path, value: Any, comment: str = "") -> str:
    """``text`` with ``value`` at ``path``; its parent is a mapping that is there. ``comment`` replaces that of its line."""

    def change(data: Any) -> None:
        _at(data, path[:-1])[path[-1]] = value

    return _changed(text, change, lambda root: _put(text, root, path, value, comment))


def insert(text: str, path: Path, value: Any, comment: str = "") -> str:
    """``text`` with ``value`` as a new item at ``path``, whose last part is the place in a sequence, under a comment line."""

    def change(data: Any) -> None:
        _at(data, path[:-1]).insert(path[-1], value)

    return _changed(text, change, lambda root: _insert(text, root, path, value, comment))


def remove(text: str, path: Path, comment: str = "") -> str:
    """``text`` without the item at ``path``, whose last part is the place in a sequence."""

    def change(data: Any) -> None:
        del _at(data, path[:-1])[path[-1]]

    return _changed(text, change, lambda root: _remove(text, root, path, comment))


def _changed(text: str, change: Callable[[Any], None], splice: Callable[[yaml.Node], str | None]) -> str:
    wanted = _own(read(text))
    change(wanted)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spliced = splice(root) if root is not None else None
    if spliced is not None:
        try:
            if read(spliced) == wanted:
                return spliced
        except yaml.YAMLError:
            pass
    return _block(wanted)


def _own(data: Any) -> Any:
    """A copy in which nothing is shared: an alias is the same object twice."""
    if isinstance(data, dict):
        return {key: _own(value) for key, value in data.items()}
    return [_own(value) for value in data] if isinstance(data, list) else data


def _at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


def _put(text: str, root: yaml.Node, path: Path, value: Any, comment: str) -> str | None:
    parent = _node(root, path[:-1])
    if not isinstance(parent, yaml.MappingNode):
        return None
    found = next(((key, node) for key, node in parent.value if key.value == path[-1]), None)
    if found is not None:
        key, node = found
        start, end = key.end_mark.index, _end(node)
        return text[:start] + _value(value, key.start_mark.column, parent, comment) + _rest(text, end, value, comment)
    if parent.flow_style:
        end = parent.end_mark.index - 1
        glue = ", " if parent.value else ""
        return f"{text[:end].rstrip()}{glue}{path[-1]}{_value(value, 0, parent, '')}{text[end:]}"
    column, end = parent.start_mark.column, _line_end(text, _end(parent))
    told = f"  # {comment}" if comment and not _is_deep(value) else ""
    return f"{text[:end]}\n{' ' * column}{path[-1]}{_value(value, column, parent, comment)}{told}{text[end:]}"


def _insert(text: str, root: yaml.Node, path: Path, value: Any, comment: str) -> str | None:
    parent, place = _node(root, path[:-1]), path[-1]
    if not isinstance(parent, yaml.SequenceNode) or not isinstance(place, int):
        return None
    if parent.flow_style or not 0 < place <= len(parent.value):
        return None
    dash = " " * parent.start_mark.column
    lines = _block(value).rstrip("\n").split("\n")
    item = [f"{dash}# {comment}"] if comment else []
    item += [f"{dash}{'- ' if i == 0 else '  '}{line}" for i, line in enumerate(lines)]
    end = _line_end(text, _end(parent.value[place - 1]))
    return "\n".join([text[:end], *item]) + text[end:]


def _remove(text: str, root: yaml.Node, path: Path, comment: str) -> str | None:
    parent, place = _node(root, path[:-1]), path[-1]
    if not isinstance(parent, yaml.SequenceNode) or not isinstance(place, int):
        return None
    if parent.flow_style or len(parent.value) == 1:
        rest = [item for i, item in enumerate(_at(read(text), path[:-1])) if i != place]
        return _put(text, root, path[:-1], rest, comment)
    node = parent.value[place]
    start = text.rfind("\n", 0, node.start_mark.index) + 1
    if text[start : node.start_mark.index].strip() != "-":
        return None
    end = _line_end(text, _end(node))
    told = f"{' ' * parent.start_mark.column}# {comment}\n" if comment else ""
    return text[:start] + told + text[end + 1 :]


def _node(root: yaml.Node, path: Path) -> yaml.Node | None:
    """The node at ``path``; None where it comes out of a merge key, so that it has no place of its own."""
    node: yaml.Node | None = root
    for part in path:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return None
    return node


def _end(node: yaml.Node) -> int:
    """Where the last leaf ends: a block's own end mark lies behind the comments that follow."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _line_end(text: str, index: int) -> int:
    end = text.find("\n", index)
    return len(text) if end < 0 else end


def _rest(text: str, end: int, value: Any, comment: str) -> str:
    """What follows a value that is replaced; a comment on its last line speaks of what was there before."""
    rest = _REST_OF_LINE.match(text, end)
    if rest is None or not comment:
        return text[end:]
    return ("" if _is_deep(value) else f"  # {comment}") + text[rest.end() :]


def _is_deep(value: Any) -> bool:
    """Too large for one line."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return any(isinstance(part, dict | list) for part in parts) or (isinstance(value, dict) and len(value) > 4)


def _value(value: Any, column: int, parent: yaml.MappingNode, comment: str) -> str:
    """``: value``, on the same line where it is small or inside of flow style; else the comment is there, and it follows."""
    if parent.flow_style or not _is_deep(value):
        return f": {_dumped(value, True, 10**6).removesuffix('...' + chr(10)).strip()}"
    lines = _block(value).rstrip("\n").split("\n")
    told = f" # {comment}" if comment else ""
    return f":{told}" + "".join(f"\n{' ' * (column + 2)}{line}" for line in lines)


def _block(value: Any) -> str:
    """Block style, the innermost parts on one line."""
    if not isinstance(value, dict) or not value:
        return _dumped(value, None)
    return "".join(
        _dumped({key: part}, None if isinstance(part, dict | list) else False) for key, part in value.items()
    )


def _dumped(value: Any, flow: bool | None, width: int = _WIDTH) -> str:
    """Letters as they are, but for the few that would come back as others."""
    text = str(yaml.safe_dump(value, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=width))
    if yaml.safe_load(text) == value:
        return text
    return str(yaml.safe_dump(value, default_flow_style=flow, sort_keys=False, width=width))
