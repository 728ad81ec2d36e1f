"""Power windows of every pool, collected from counters that may drop, jump and fall silent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pricing.meter import slope
from pricing.meter.energy import worst
from pricing.meter.readings import Label, MeterReport
from pricing.meter.slope import EnergyFit, PowerWindow

HORIZON_S = 3600.0
# Meters and gates report at their own times: in a window of a minute, a few seconds of misalignment are noise.
WINDOW_S = 60.0
SILENCE_S_MAX = 300.0


class PoolJoules(NamedTuple):
    """Joules of a pool's replicas together; ``members`` says which meters and replicas are in the sum."""

    joules: float
    members: frozenset[str]
    label: Label = "measured"


class Served(NamedTuple):
    """What a pool has served over the windows of the last hour, and its mean watts: all its replicas together.

    Watts are those of the windows that were not modelled, where there are any. ``input_tokens`` are those computed, beside
    ``cached_tokens``.
    """

    input_tokens: float
    output_tokens: float
    seconds: float
    watts_mean: float
    cached_tokens: float = 0.0


class _Seen(NamedTuple):
    at_s: float
    joules: float
    input_tokens: float
    output_tokens: float
    members: frozenset[str]
    label: Label
    cached_tokens: float


class _Window(NamedTuple):
    end_s: float
    power: PowerWindow
    label: Label


def pool_joules(reports: Iterable[MeterReport]) -> dict[str, PoolJoules]:
    """Joules by pool from the newest report of every node."""
    found: dict[str, PoolJoules] = {}
    for report in reports:
        for replica in report.replicas:
            before = found.get(replica.pool, PoolJoules(0.0, frozenset()))
            member = f"{report.node} {report.started_s} {replica.replica}"
            found[replica.pool] = PoolJoules(
                before.joules + replica.joules, before.members | {member}, worst((before.label, replica.label))
            )
    return found


class PoolMeter:
    """Windows of at least ``window_s`` for each pool, none older than an hour. ``configured``: joules per token by pool.

    ``tokens_per_s_max``: a counter that grows faster has come back from somewhere (a gate that lost sight of an engine for a
    moment), and its window is dropped.
    """

    def __init__(
        self, configured: Mapping[str, tuple[float, float]], window_s: float = WINDOW_S, tokens_per_s_max: float = 5e6
    ) -> None:
        self._configured, self._window_s, self._tokens_per_s_max = configured, window_s, tokens_per_s_max
        self._first: dict[str, _Seen] = {}
        self._last: dict[str, _Seen] = {}
        self._windows: dict[str, deque[_Window]] = {}

    def observe(
        self,
        pool: str,
        at_s: float,
        joules: float,
        prompt_tokens: float,
        generation_tokens: float,
        members: frozenset[str] = frozenset(),
        label: Label = "measured",
        cached_tokens: float = 0.0,
    ) -> None:
        """Counters of a pool at ``at_s`` (a clock that does not jump), as often as one likes.

        ``prompt_tokens`` are those computed; ``cached_tokens`` of the prompts came from the prefix cache beside them.
        ``members``: who is in the sum of joules; when that changes, or a counter drops, the window begins anew: what was
        drawn in between belongs to no known tokens.
        """
        seen = _Seen(at_s, joules, prompt_tokens, generation_tokens, members, label, cached_tokens)
        last = self._last.get(pool)
        if last is not None and at_s <= last.at_s:
            return
        self._last[pool] = seen
        if last is None or not self._follows(last, seen):
            self._first[pool] = seen
            return
        first = self._first[pool]
        if at_s - first.at_s < self._window_s:
            return
        power = PowerWindow(
            at_s - first.at_s,
            joules - first.joules,
            prompt_tokens - first.input_tokens,
            generation_tokens - first.output_tokens,
            max(1, len(members)),
            max(0.0, cached_tokens - first.cached_tokens),
        )
        self._first[pool] = seen
        kept = self._windows.setdefault(pool, deque(maxlen=max(1, int(HORIZON_S / self._window_s))))
        kept.append(_Window(at_s, power, worst((first.label, label))))

    def _follows(self, last: _Seen, seen: _Seen) -> bool:
        dt_s = seen.at_s - last.at_s
        input_tokens, output_tokens = seen.input_tokens - last.input_tokens, seen.output_tokens - last.output_tokens
        return (
            seen.members == last.members
            and dt_s <= SILENCE_S_MAX
            and seen.joules >= last.joules
            and input_tokens >= 0.0
            and output_tokens >= 0.0
            and input_tokens + output_tokens <= self._tokens_per_s_max * max(dt_s, 1.0)
        )

    def windows(self, pool: str, now_s: float) -> list[PowerWindow]:
        """Those that ended within the last hour, oldest first."""
        return [window.power for window in self._recent(pool, now_s)]

    def _recent(self, pool: str, now_s: float) -> list[_Window]:
        return [window for window in self._windows.get(pool, ()) if now_s - window.end_s <= HORIZON_S]

    def fit(self, pool: str, now_s: float) -> EnergyFit | None:
        """Slope and idle power of one of the pool's replicas; whether to believe it, ``slope.trustworthy`` says.

        From windows that were not modelled where there are enough of them, and as firm as the weakest of those it is from.
        None while there is too little to fit.
        """
        recent = self._recent(pool, now_s)
        firm = _firm(recent)
        chosen = firm if len(firm) >= slope.WINDOWS_MIN else recent
        label = worst(window.label for window in chosen)
        configured = self._configured.get(pool, (0.0, 0.0))
        return slope.fit([window.power for window in chosen], configured, now_s, label)

    def served(self, pool: str, now_s: float) -> Served | None:
        """Sums over the last hour's windows; None before the first one is complete."""
        recent = self._recent(pool, now_s)
        windows, metered = [w.power for w in recent], [w.power for w in _firm(recent) or recent]
        if not windows:
            return None
        return Served(
            sum(window.input_tokens for window in windows),
            sum(window.output_tokens for window in windows),
            sum(window.seconds for window in windows),
            sum(window.joules for window in metered) / sum(window.seconds for window in metered),
            sum(window.cached_tokens for window in windows),
        )


def _firm(windows: Iterable[_Window]) -> list[_Window]:
    return [window for window in windows if window.label != "modelled"]
