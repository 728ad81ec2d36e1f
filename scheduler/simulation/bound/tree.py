"""Least prefix sums of K arrays at once, under point updates: the data structure of the greedy bound.

Every array has ``points`` entries; a prefix sum at ``i`` takes in entry ``i``. Blocks of ``BLOCK`` entries hang below a
binary tree whose node stores the sum of its entries and the least prefix sum inside it. The K arrays lie interleaved, so
that one walk to the root serves all of them from the same cache lines. Compiled; nothing is checked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

BLOCK = 8


class Tree(NamedTuple):
    """``entries[points, K]``; ``sums`` and ``mins`` ``[2 * blocks, K]`` with the root at 1 and leaves from ``blocks``."""

    entries: np.ndarray
    sums: np.ndarray
    mins: np.ndarray


@njit(cache=True)
def _renew_block(tree: Tree, block: int, first: int) -> None:
    """Recompute one leaf for the arrays from ``first`` on."""
    points, arrays = tree.entries.shape
    node = tree.sums.shape[0] // 2 + block
    for k in range(first, arrays):
        tree.sums[node, k] = 0.0
        tree.mins[node, k] = np.inf
    for i in range(block * BLOCK, min(points, (block + 1) * BLOCK)):
        for k in range(first, arrays):
            run = tree.sums[node, k] + tree.entries[i, k]
            tree.sums[node, k] = run
            tree.mins[node, k] = min(tree.mins[node, k], run)


@njit(cache=True)
def _renew_node(tree: Tree, node: int, first: int) -> None:
    """Recompute one inner node from its two children."""
    left, right = 2 * node, 2 * node + 1
    for k in range(first, tree.sums.shape[1]):
        tree.sums[node, k] = tree.sums[left, k] + tree.sums[right, k]
        tree.mins[node, k] = min(tree.mins[left, k], tree.sums[left, k] + tree.mins[right, k])


@njit(cache=True)
def grow(prefix: np.ndarray, arrays: int) -> Tree:
    """A tree whose ``arrays`` arrays all have the prefix sums ``prefix``."""
    points = prefix.shape[0]
    blocks = 1
    while blocks * BLOCK < points:
        blocks *= 2
    tree = Tree(np.empty((points, arrays)), np.empty((2 * blocks, arrays)), np.empty((2 * blocks, arrays)))
    for i in range(points):
        tree.entries[i, :] = prefix[i] - prefix[i - 1] if i else prefix[0]
    for block in range(blocks):
        _renew_block(tree, block, 0)
    for node in range(blocks - 1, 0, -1):
        _renew_node(tree, node, 0)
    return tree


@njit(cache=True)
def add(tree: Tree, at: int, first: int, amount: float) -> None:
    """Add ``amount`` to all prefix sums at ``at`` and later, in the arrays from ``first`` on."""
    if at >= tree.entries.shape[0]:
        return
    for k in range(first, tree.sums.shape[1]):
        tree.entries[at, k] += amount
    _renew_block(tree, at // BLOCK, first)
    node = (tree.sums.shape[0] // 2 + at // BLOCK) // 2
    while node:
        _renew_node(tree, node, first)
        node //= 2


@njit(cache=True)
def _block_mins(tree: Tree, begin: int, frm: int, until: int, first: int, out: np.ndarray) -> None:
    """Least prefix sum at ``[frm, until)`` of each array, counted from ``begin``, into ``out``."""
    arrays = tree.sums.shape[1]
    for k in range(first, arrays):
        run, least = 0.0, np.inf
        for i in range(begin, until):
            run += tree.entries[i, k]
            if i >= frm and run < least:
                least = run
        out[k] = least


@njit(cache=True)
def least_from(tree: Tree, at: int, first: int, out: np.ndarray) -> None:
    """Least prefix sum at ``at`` or later, for the arrays from ``first`` on, into ``out``."""
    points, arrays = tree.entries.shape
    block = at // BLOCK
    _block_mins(tree, block * BLOCK, at, min(points, (block + 1) * BLOCK), first, out)
    node = tree.sums.shape[0] // 2 + block
    while node > 1:
        if node % 2 == 0:
            for k in range(first, arrays):
                out[k] = min(out[k], tree.sums[node, k] + tree.mins[node + 1, k])
        else:
            for k in range(first, arrays):
                out[k] += tree.sums[node - 1, k]
        node //= 2


@njit(cache=True)
def least_until(tree: Tree, at: int, first: int, out: np.ndarray) -> None:
    """Least prefix sum at ``at`` or earlier, for the arrays from ``first`` on, into ``out``."""
    arrays = tree.sums.shape[1]
    block = at // BLOCK
    _block_mins(tree, block * BLOCK, block * BLOCK, at + 1, first, out)
    node = tree.sums.shape[0] // 2 + block
    while node > 1:
        if node % 2 == 1:
            for k in range(first, arrays):
                out[k] = min(tree.mins[node - 1, k], tree.sums[node - 1, k] + out[k])
        node //= 2


@njit(cache=True)
def where_least(tree: Tree, k: int, begin: int, until: int) -> int:
    """Where array ``k`` has its least prefix sum in ``[begin, until)``: the root first, then what may still be less."""
    size = tree.sums.shape[0] // 2
    least, at = np.inf, begin
    stack_node = np.empty(64, np.int64)
    stack_run = np.empty(64)
    stack_low = np.empty(64, np.int64)
    stack_size = np.empty(64, np.int64)
    depth = 1
    stack_node[0], stack_run[0], stack_low[0], stack_size[0] = 1, 0.0, 0, size
    while depth:
        depth -= 1
        node, run, low, width = stack_node[depth], stack_run[depth], stack_low[depth], stack_size[depth]
        high = (low + width) * BLOCK
        if high <= begin or low * BLOCK >= until or run + tree.mins[node, k] >= least:
            continue
        if width == 1:
            for i in range(low * BLOCK, min(high, until)):
                run += tree.entries[i, k]
                if i >= begin and run < least:
                    least, at = run, i
            continue
        half, left = width // 2, 2 * node
        right_run = run + tree.sums[left, k]
        # The more promising child goes on top of the stack: it rules most of the other one out.
        top = 1 if run + tree.mins[left, k] <= right_run + tree.mins[left + 1, k] else 0
        stack_node[depth + top], stack_run[depth + top], stack_low[depth + top] = left, run, low
        stack_node[depth + 1 - top], stack_run[depth + 1 - top] = left + 1, right_run
        stack_low[depth + 1 - top] = low + half
        stack_size[depth], stack_size[depth + 1] = half, half
        depth += 2
    return at
