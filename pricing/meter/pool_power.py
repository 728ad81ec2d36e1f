"""Power windows of every pool, collected from counters that may drop, jump and fall silent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pricing.meter import slope
from pricing.meter.energy import COUNTER, worst
from pricing.meter.readings import Label, MeterReport, ReplicaReading
from pricing.meter.slope import EnergyFit, PowerWindow

HORIZON_S = 3600.0
# Meters and gates report at their own times: in a window of a minute, a few seconds of misalignment are noise.
WINDOW_S = 60.0
SILENCE_S_MAX = 300.0
_REMARKS_MAX = 3


class PoolJoules(NamedTuple):
    """Joules of a pool's replicas together; ``members`` says which meters and replicas are in the sum.

    ``remarks``: what is out of the ordinary with how they were read, at most three.
    """

    joules: float
    members: frozenset[str]
    label: Label = "measured"
    remarks: tuple[str, ...] = ()


class Served(NamedTuple):
    """What a pool has served over the windows of the last hour, and its mean watts: all its replicas together.

    Watts, with the worst label and the end of the windows they are from, are those of metered windows that were not
    modelled, where there are any, else of all metered ones; None where no window was metered. ``input_tokens`` are those
    computed, beside ``cached_tokens``.
    """

    input_tokens: float
    output_tokens: float
    seconds: float
    watts_mean: float | None
    cached_tokens: float = 0.0
    label: Label = "modelled"
    watts_at_s: float = 0.0


class _Seen(NamedTuple):
    at_s: float
    joules: float
    input_tokens: float
    output_tokens: float
    members: frozenset[str]
    label: Label
    cached_tokens: float
    replicas: int


class _Open(NamedTuple):
    """A window that has begun: its first observation, and the worst of all since then."""

    first: _Seen
    label: Label
    metered: bool


class _Window(NamedTuple):
    """``metered``: its joules are those of all replicas that served its tokens; else they are none."""

    end_s: float
    power: PowerWindow
    label: Label
    metered: bool


def pool_joules(reports: Iterable[MeterReport]) -> dict[str, PoolJoules]:
    """Joules by pool from the newest report of every node."""
    found: dict[str, PoolJoules] = {}
    for report in reports:
        for replica in report.replicas:
            before = found.get(replica.pool, PoolJoules(0.0, frozenset()))
            member = f"{report.node} {report.started_s} {replica.replica}"
            found[replica.pool] = PoolJoules(
                before.joules + replica.joules,
                before.members | {member},
                worst((before.label, replica.label)),
                tuple(dict.fromkeys((*before.remarks, *_remarks(report, replica))))[:_REMARKS_MAX],
            )
    return found


def _remarks(report: MeterReport, replica: ReplicaReading) -> Iterator[str]:
    """How the joules came about, where not by a board's counter; why the node reads no board, where they are modelled."""
    if replica.how != COUNTER:
        yield replica.how
    if replica.label == "modelled" and report.problem:
        yield report.problem


class PoolMeter:
    """Windows of at least ``window_s`` for each pool, none older than an hour. ``configured``: joules per token by pool.

    ``tokens_per_s_max``: a counter that grows faster has come back from somewhere (a gate that lost sight of an engine for a
    moment), and its window is dropped.
    """

    def __init__(
        self, configured: Mapping[str, tuple[float, float]], window_s: float = WINDOW_S, tokens_per_s_max: float = 5e6
    ) -> None:
        self._configured, self._window_s, self._tokens_per_s_max = configured, window_s, tokens_per_s_max
        self._open: dict[str, _Open] = {}
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
        replicas: int = 0,
    ) -> None:
        """Counters of a pool at ``at_s`` (a clock that does not jump), as often as one likes.

        ``prompt_tokens`` are those computed; ``cached_tokens`` of the prompts came from the prefix cache beside them.
        ``members``: who is in the sum of joules; when that changes, or a counter drops, the window begins anew: what was
        drawn in between belongs to no known tokens. ``replicas`` is how many served the tokens: where there were more than
        members, or their number changed, the window has tokens but no joules.
        """
        seen = _Seen(at_s, joules, prompt_tokens, generation_tokens, members, label, cached_tokens, replicas)
        last = self._last.get(pool)
        if last is not None and at_s <= last.at_s:
            return
        self._last[pool] = seen
        if last is None or not self._follows(last, seen):
            self._open[pool] = _begun(seen)
            return
        first, worst_label, metered = self._open[pool]
        opened = _Open(first, worst((worst_label, label)), metered and _covers(seen) and replicas == last.replicas)
        self._open[pool] = opened
        if at_s - first.at_s < self._window_s:
            return
        power = PowerWindow(
            at_s - first.at_s,
            joules - first.joules if opened.metered else 0.0,
            prompt_tokens - first.input_tokens,
            generation_tokens - first.output_tokens,
            max(1, len(members) if opened.metered else replicas),
            max(0.0, cached_tokens - first.cached_tokens),
        )
        self._open[pool] = _begun(seen)
        kept = self._windows.setdefault(pool, deque(maxlen=max(1, int(HORIZON_S / self._window_s))))
        kept.append(_Window(at_s, power, opened.label, opened.metered))

    def coverage(self, pool: str) -> tuple[int, int]:
        """How many replicas meters see, and how many served, when the pool was last observed."""
        last = self._last.get(pool)
        return (0, 0) if last is None else (len(last.members), last.replicas)

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
        """Those that ended within the last hour, oldest first; without joules where not all replicas were metered."""
        return [window.power for window in self._recent(pool, now_s)]

    def _recent(self, pool: str, now_s: float) -> list[_Window]:
        return [window for window in self._windows.get(pool, ()) if now_s - window.end_s <= HORIZON_S]

    def fit(self, pool: str, now_s: float) -> EnergyFit | None:
        """Slope and idle power of one of the pool's replicas; whether to believe it, ``slope.trustworthy`` says.

        From windows that were not modelled where there are enough of them, and as firm as the weakest of those it is from.
        None while there is too little to fit.
        """
        recent = [window for window in self._recent(pool, now_s) if window.metered]
        firm = _firm(recent)
        chosen = firm if len(firm) >= slope.WINDOWS_MIN else recent
        label = worst(window.label for window in chosen)
        configured = self._configured.get(pool, (0.0, 0.0))
        return slope.fit([window.power for window in chosen], configured, now_s, label)

    def served(self, pool: str, now_s: float) -> Served | None:
        """Sums over the last hour's windows; None before the first one is complete."""
        recent = self._recent(pool, now_s)
        if not recent:
            return None
        windows = [window.power for window in recent]
        metered = [window for window in recent if window.metered]
        used = _firm(metered) or metered
        return Served(
            sum(window.input_tokens for window in windows),
            sum(window.output_tokens for window in windows),
            sum(window.seconds for window in windows),
            sum(w.power.joules for w in used) / sum(w.power.seconds for w in used) if used else None,
            sum(window.cached_tokens for window in windows),
            worst(window.label for window in used) if used else "modelled",
            used[-1].end_s if used else 0.0,
        )


def _covers(seen: _Seen) -> bool:
    return bool(seen.members) and len(seen.members) >= seen.replicas


def _begun(seen: _Seen) -> _Open:
    return _Open(seen, seen.label, _covers(seen))


def _firm(windows: Iterable[_Window]) -> list[_Window]:
    return [window for window in windows if window.label != "modelled"]
