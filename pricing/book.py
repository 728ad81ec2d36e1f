"""The last good price of every product of every feed: what is taken in, what waits in quarantine, what has aged out.

Pure: ``take`` returns the new entry and what has changed, for the history. A bad answer never displaces a good price; it
only lets it age.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from pricing import guard, timeline
from pricing.listing import Listing, Price, Step

What = Literal["price", "seen", "refused", "quarantined", "confirmed", "withdrawn", "unlisted", "relisted"]

# Steps further from now than this have no use on the board; the history keeps those that have been.
_STEPS_KEPT_S = 8 * 86_400.0
_STEPS_AHEAD_S = 3 * 86_400.0
# Within this time steps add up: a price that has moved more than a jump since then is one.
_ANCHOR_S = 86_400.0
# Prices that differ by less are one price that moves, for the one who waits for a confirmation.
_SAME_RATIO = 1.1
# A source's clock may be a little ahead of ours.
_AHEAD_S_MAX = 120.0


class Held(msgspec.Struct, frozen=True):
    """A price in quarantine: ``seen`` polls in a row have said so, from ``since_s`` to ``last_s``."""

    price: Price
    reason: str
    since_s: float
    seen: int
    final: bool
    last_s: float = 0.0


class Entry(msgspec.Struct, frozen=True):
    """One product of one feed. ``price`` is the last good one; ``since_s`` when it began, ``observed_s`` last seen.

    ``doubted_s``: since when the source has not listed it, or has listed what was refused. ``anchor`` was the good price
    at ``anchor_s``, up to a day ago: many small steps in a day must not add up to a jump.
    """

    feed: str
    product: str
    price: Price | None = None
    since_s: float = 0.0
    observed_s: float = 0.0
    held: Held | None = None
    listed: bool = True
    refused: str = ""
    doubted_s: float = 0.0
    anchor: Price | None = None
    anchor_s: float = 0.0


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the history. ``price`` of a series holds its steps from the first to the last that has changed.

    ``seen`` says of a whole feed that what it listed still held; ``final``: its own source cannot confirm this price.
    ``observed_s``: when the source says that it held, where that is before ``at_s`` (for ``seen``: the oldest of all).
    """

    at_s: float
    feed: str
    product: str
    what: What
    price: Price | None = None
    text: str = ""
    final: bool = False
    observed_s: float | None = None


class Rules(NamedTuple):
    """When a change of price is believed (see ``scheduler.config.prices.Feed``)."""

    jump_ratio_max: float = 3.0
    jump_ratio_never: float = 20.0
    confirmations: int = 3


# What the other sources of the same thing say of a price: True, False, or None where none of them has a word.
Agrees = Callable[[Price], bool | None]


def nobody_agrees(price: Price) -> bool | None:
    """There is no other source to ask."""
    return None


def take(
    entry: Entry | None, feed: str, listing: Listing, rules: Rules, now_s: float, agrees: Agrees = nobody_agrees
) -> tuple[Entry, list[Change]]:
    """Judge one listing of a poll against what is known. ``agrees`` asks the other sources of the same thing."""
    known = entry or Entry(feed, listing.product)
    observed_s = _observed_s(listing.observed_s, now_s)

    def change(what: What, price: Price | None = None, text: str = "", final: bool = False) -> Change:
        return Change(
            now_s, feed, listing.product, what, price, text, final, observed_s if observed_s < now_s else None
        )

    reason = guard.implausible(listing.price)
    if reason is None and known.price is not None and not isinstance(listing.price, type(known.price)):
        reason = f"became a {type(listing.price).__name__}"
    if reason is not None:
        if known.listed and known.refused == reason:
            return msgspec.structs.replace(known, held=None), []
        doubted = msgspec.structs.replace(known, listed=True, refused=reason, held=None, doubted_s=now_s)
        return doubted, [change("refused", text=reason)]
    back = [] if known.listed and not known.refused else [change("relisted")]
    known = msgspec.structs.replace(known, listed=True, refused="")
    if timeline.steps_of(listing.price) is not None:
        known, changes = _take_series(known, listing.price, now_s, change)
        return seen(known, observed_s), changes or back
    if known.price == listing.price:
        changes = [change("withdrawn", known.held.price)] if known.held else back
        return seen(msgspec.structs.replace(known, held=None), observed_s), changes
    said = agrees(listing.price)
    suspicion, final = _suspicion(known, listing.price, rules, said, now_s)
    changes = []
    if suspicion:
        held = _held(known.held, listing.price, suspicion, final, now_s)
        vouched = bool(said) and guard.unvouched(known.price, listing.price) <= rules.jump_ratio_max
        confirmed = vouched or (not final and held.seen > rules.confirmations)
        if not confirmed:
            same = known.held is not None and held.seen > 1
            changes = [] if same else [change("quarantined", listing.price, suspicion, final)]
            return msgspec.structs.replace(known, held=held), changes
        changes = [change("confirmed", listing.price)]
    if suspicion:  # confirmed: steps are counted from here anew
        known = msgspec.structs.replace(known, anchor=listing.price, anchor_s=now_s)
    return _good(known, listing.price, now_s, observed_s), [*changes, change("price", listing.price)]


def _good(known: Entry, price: Price, at_s: float, observed_s: float) -> Entry:
    """The entry with a new good price."""
    anchor, anchor_s = known.anchor, known.anchor_s
    if anchor is None or not 0.0 <= at_s - anchor_s <= _ANCHOR_S:
        anchor, anchor_s = (price if known.price is None else known.price), at_s
    return Entry(known.feed, known.product, price, at_s, observed_s, anchor=anchor, anchor_s=anchor_s)


def _observed_s(said_s: float, now_s: float) -> float:
    """What a source says of its own time, where that can be true; an age that nobody can know is none."""
    return min(max(said_s, 0.0), now_s) if said_s <= now_s + _AHEAD_S_MAX else now_s


def _take_series(known: Entry, price: Price, now_s: float, change: Callable[..., Change]) -> tuple[Entry, list[Change]]:
    old = _kept(timeline.steps_of(known.price) or () if known.price is not None else (), now_s)
    new = _kept(timeline.steps_of(price) or (), now_s)
    same_kind = known.price is not None and msgspec.structs.replace(known.price, steps=()) == (
        msgspec.structs.replace(price, steps=())
    )
    added = msgspec.structs.replace(price, steps=timeline.revised(old, new) if same_kind else new)
    revised = _revised(old, added, now_s)
    if known.price is not None and revised == msgspec.structs.replace(known.price, steps=old):
        return msgspec.structs.replace(known, price=revised), []
    return msgspec.structs.replace(known, price=revised, since_s=now_s), [change("price", added)]


def _revised(old: tuple[Step, ...], part: Price, at_s: float) -> Price:
    """The series that said ``old``, after its source has said ``part``."""
    steps = timeline.steps_of(part) or ()
    return msgspec.structs.replace(part, steps=_kept(timeline.merged(old, steps) if steps else old, at_s))


def _kept(steps: tuple[Step, ...], now_s: float) -> tuple[Step, ...]:
    """The steps that matter around now, the last one in any case."""
    near = [s for s in steps if s.end_s > now_s - _STEPS_KEPT_S and s.start_s < now_s + _STEPS_AHEAD_S]
    return tuple(near[-guard.STEPS_MAX :]) or steps[-1:]


def _suspicion(known: Entry, new: Price, rules: Rules, said: bool | None, now_s: float) -> tuple[str, bool]:
    """Why a new price needs confirmation, and whether its own source can never give it."""
    if known.price is None:
        if guard.is_free(new):
            return "free at first sight", True
        return ("another source of it says otherwise", False) if said is False else ("", False)
    ratio, over = guard.jump(known.price, new), ""
    if known.anchor is not None and 0.0 <= now_s - known.anchor_s <= _ANCHOR_S:
        since = guard.jump(known.anchor, new)
        ratio, over = (since, " in a day") if since > ratio else (ratio, "")
    if ratio <= rules.jump_ratio_max:
        return "", False
    by = f"{ratio:.3g}-fold{over}" if ratio < 1e12 else "to or from zero, or into another product"
    return f"changed {by}", ratio > rules.jump_ratio_never


def _held(held: Held | None, price: Price, reason: str, final: bool, now_s: float) -> Held:
    if held is not None and held.final <= final and guard.jump(held.price, price) <= _SAME_RATIO:
        return Held(price, reason, held.since_s, held.seen + 1, final, now_s)
    return Held(price, reason, now_s, 1, final, now_s)


def unchanged(entry: Entry, rules: Rules, now_s: float, agrees: Agrees = nobody_agrees) -> tuple[Entry, list[Change]]:
    """The source says that nothing has changed: what it listed at the last poll still holds, good or in quarantine."""
    if not entry.listed or entry.refused:
        return entry, []
    if entry.held is not None:
        return take(entry, entry.feed, Listing(entry.product, entry.held.price, now_s), rules, now_s, agrees)
    return seen(entry, now_s), []


def seen(entry: Entry, now_s: float) -> Entry:
    """The good price held at ``now_s`` as well."""
    if entry.price is None:
        return entry
    return msgspec.structs.replace(entry, observed_s=max(entry.observed_s, now_s))


def holds(entry: Entry) -> bool:
    """The last good poll of its feed has listed the good price."""
    return entry.price is not None and entry.listed and not entry.held and not entry.refused


def unlist(entry: Entry, now_s: float) -> tuple[Entry, list[Change]]:
    """A good poll without this product: the last price stays and ages, one in quarantine begins anew when it is back."""
    if not entry.listed:
        return entry, []
    gone = msgspec.structs.replace(entry, listed=False, held=None, doubted_s=now_s)
    return gone, [Change(now_s, entry.feed, entry.product, "unlisted")]


def apply(entry: Entry | None, change: Change) -> Entry:
    """The entry after a line of the history: how the book is rebuilt at a start. ``seen`` goes to a feed's every entry."""
    known = entry or Entry(change.feed, change.product)
    price, observed_s = change.price, change.at_s if change.observed_s is None else change.observed_s
    if change.what == "price" and price is not None:
        if timeline.steps_of(price) is not None:
            old = timeline.steps_of(known.price) if isinstance(known.price, type(price)) else None
            return Entry(known.feed, known.product, _revised(old or (), price, change.at_s), change.at_s, observed_s)
        return _good(known, price, change.at_s, observed_s)
    if change.what == "seen":
        return seen(known, observed_s) if holds(known) else known
    if change.what == "refused":
        return msgspec.structs.replace(known, listed=True, refused=change.text, held=None, doubted_s=change.at_s)
    if change.what == "unlisted":
        return msgspec.structs.replace(known, listed=False, held=None, doubted_s=change.at_s)
    known = msgspec.structs.replace(known, listed=True, refused="", held=None)
    if change.what == "confirmed":
        return msgspec.structs.replace(known, anchor=price, anchor_s=change.at_s)
    if change.what == "quarantined" and price is not None:
        held = Held(price, change.text, change.at_s, 1, change.final, change.at_s)
        return msgspec.structs.replace(known, held=held)
    return seen(known, observed_s) if change.what in ("relisted", "withdrawn") else known
