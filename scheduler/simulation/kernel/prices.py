"""The bid price of a line: ``scheduler.core.capacity`` on arrays. Compiled."""

from __future__ import annotations

from scheduler.simulation.kernel.state import State, tight


@tight
def value(s: State, line_row: int, x_s: float) -> float:
    """V(x) of a line (USD), flat beyond both ends."""
    line = s.lines[line_row]
    place = x_s / line.step_s
    if place <= 0.0:
        return float(s.bid_usd[line_row, 0])
    if place >= line.points - 1:
        return float(s.bid_usd[line_row, line.points - 1])
    i = int(place)
    low = s.bid_usd[line_row, i]
    return float(low + (s.bid_usd[line_row, i + 1] - low) * (place - i))


@tight
def price(s: State, line_row: int, added_s: float, age_s: float, sent_s: float, seen: bool) -> float:
    """Bid price (USD) of ``added_s`` for who joins this line: the dearest of it and the slower ones.

    ``seen``: as of the last snapshot instead of now; ``age_s`` and ``sent_s`` as in ``scheduler.core.capacity``.
    """
    usd = 0.0
    for row in range(line_row, s.pools[s.lines[line_row].pool].line_end):
        line = s.lines[row]
        if line.points:
            x_s = max(0.0, (line.seen_wait_s if seen else line.wait_s) - age_s) + sent_s
            usd = max(usd, value(s, row, x_s) - value(s, row, x_s + added_s))
    return usd
