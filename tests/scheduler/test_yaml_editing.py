"""Changes to a YAML file keep what people wrote; where the layout is too odd for that, at least they keep what it means."""

from __future__ import annotations

import difflib
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scheduler.config.editing import insert, put, remove

TEXT = """\
# a site
pools: # ours
  # rack 3
  - name: a
    replicas: {min: 4, max: 4} # 4 GPUs
    args:
      seqs: 256 # at most

  # rack 4
  - name: b
    replicas:
      min: 1
      max: 2 # for now

# what is bought
providers:
  - {name: x, prices: [1, 2]}
policy:
  bounds: {concurrent: 4}
# the end
"""


def changes(after: str, before: str = TEXT) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def test_a_new_value_takes_one_line_and_its_comment_speaks_of_it() -> None:
    assert changes(put(TEXT, ("pools", 0, "replicas"), {"min": 5, "max": 6}, "now 5")) == [
        "-    replicas: {min: 4, max: 4} # 4 GPUs",
        "+    replicas: {min: 5, max: 6}  # now 5",
    ]


def test_a_value_in_block_style_becomes_one_line() -> None:
    assert changes(put(TEXT, ("pools", 1, "replicas"), {"min": 5, "max": 6}, "now 5")) == [
        "-    replicas:",
        "-      min: 1",
        "-      max: 2 # for now",
        "+    replicas: {min: 5, max: 6}  # now 5",
    ]


def test_a_new_key_stands_behind_the_others_and_before_the_comments_that_follow() -> None:
    told = {"when": "2026-01-01", "deep": {"a": 1.5, "b": [1, 2]}}
    assert changes(put(TEXT, ("policy", "expected"), told, "by a plan")) == [
        "+  expected: # by a plan",
        "+    when: '2026-01-01'",
        "+    deep:",
        "+      a: 1.5",
        "+      b: [1, 2]",
    ]
    assert changes(put(TEXT, ("more",), 3)) == ["+more: 3"]


def test_what_was_put_is_replaced_by_what_is_put_again() -> None:
    once = put(TEXT, ("policy", "expected"), {"a": {"b": 1}}, "first")
    twice = put(once, ("policy", "expected"), {"a": {"b": 2}}, "second")
    assert changes(twice) == ["+  expected: # second", "+    a: {b: 2}"]


def test_an_item_goes_with_its_lines_alone_and_a_comment_says_so() -> None:
    assert changes(remove(TEXT, ("pools", 1), "no b")) == [
        "-  - name: b",
        "-    replicas:",
        "-      min: 1",
        "-      max: 2 # for now",
        "+  # no b",
    ]


def test_a_new_item_stands_behind_the_one_before_it() -> None:
    assert changes(insert(TEXT, ("pools", 1), {"name": "c", "args": {"seqs": 1}}, "new")) == [
        "+  # new",
        "+  - name: c",
        "+    args: {seqs: 1}",
    ]


def test_the_last_item_leaves_an_empty_list() -> None:
    once = remove(TEXT, ("pools", 1))
    assert yaml.safe_load(remove(once, ("pools", 0)))["pools"] == []


def test_parts_in_flow_style_are_changed_where_they_are() -> None:
    assert changes(put(TEXT, ("providers", 0, "zone"), "eu")) == [
        "-  - {name: x, prices: [1, 2]}",
        "+  - {name: x, prices: [1, 2], zone: eu}",
    ]
    assert changes(remove(TEXT, ("providers", 0, "prices", 0))) == [
        "-  - {name: x, prices: [1, 2]}",
        "+  - {name: x, prices: [2]}",
    ]
    assert changes(put(TEXT, ("policy", "bounds"), {"deep": {"a": 1}})) == [
        "-  bounds: {concurrent: 4}",
        "+  bounds:",
        "+    deep: {a: 1}",
    ]


ALIASED = "a: &x {min: 1}\nb: *x\nc: &y\n  deep: {k: 1}\nd:\n  <<: *y\n  own: 2\n"


@pytest.mark.parametrize("path", [("a", "min"), ("b", "min"), ("d", "deep"), ("d", "own"), ("b",), ("c", "deep", "k")])
def test_an_alias_is_changed_alone(path: tuple[str, ...]) -> None:
    plain: Any = json.loads(json.dumps(yaml.safe_load(ALIASED)))
    at = plain
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = 9
    assert yaml.safe_load(put(ALIASED, path, 9)) == plain


@pytest.mark.parametrize("path", [("nowhere", "x"), ("pools", 7, "x")])
def test_a_path_that_is_not_there_is_an_error(path: tuple[str | int, ...]) -> None:
    with pytest.raises(LookupError):
        put(TEXT, path, 1)


scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(0, 9), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.text("abcdefgh", min_size=1, max_size=4)


@given(st.dictionaries(names, st.lists(values, min_size=1, max_size=4), min_size=1, max_size=3), values, st.data())
def test_whatever_the_file_it_says_afterwards_what_was_asked_for(
    document: dict[str, list[Any]], value: Any, data: st.DataObject
) -> None:
    flow = data.draw(st.sampled_from([None, True, False]))
    text = yaml.safe_dump(document, default_flow_style=flow, indent=data.draw(st.sampled_from([2, 4])))
    key = data.draw(st.sampled_from(sorted(document)))
    place = data.draw(st.integers(0, len(document[key]) - 1))
    items = document[key]
    assert yaml.safe_load(put(text, (key,), value, "why")) == {**document, key: value}
    assert yaml.safe_load(put(text, ("z",), value, "why")) == {**document, "z": value}
    inserted = [*items[:place], value, *items[place:]]
    assert yaml.safe_load(insert(text, (key, place), value, "why")) == {**document, key: inserted}
    removed = [*items[:place], *items[place + 1 :]]
    assert yaml.safe_load(remove(text, (key, place), "why")) == {**document, key: removed}
