"""What is learnt while serving: how wrong the service curve is, how much of an objective to plan with, how long answers are.

All of it is bounded, starts from what the site file says, and is plain arithmetic: the simulator learns like the gateway.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator

_RATIO_MIN, _RATIO_MAX = 0.2, 5.0
# While nothing is seen, opinions fade: looked at every so often, over so long.
_REST_S, _REST_FADE_S = 5.0, 120.0
_PACE_WORK_S = 0.5  # work per engine after which the pace of a line is looked at
# Adaptive conformal inference (Gibbs and Candes 2021): each miss takes a step down, each hit a small one up, so that in
# the long run this share of the requests that waited here misses its objective, whatever the prediction is worth.
_MISS_TARGET = 0.003
_MARGIN_STEP = 0.02
_MARGIN_MIN = 0.5
_SLOTS_STEP = 0.01  # of some twenty looks a second, while there is a line


class Ratio:
    """Seconds needed over seconds predicted, as two sums that fade, beginning with ``prior_s`` seconds for which it was 1.

    What was seen fades with what follows (``fade_s`` predicted seconds). With time in which nothing follows the prior comes
    back: an opinion that keeps work away must not last because no work comes that could correct it.
    """

    __slots__ = ("_actual_s", "_fade_s", "_predicted_s", "_prior_s", "value")

    def __init__(self, prior_s: float, fade_s: float) -> None:
        self.value, self._prior_s, self._fade_s = 1.0, prior_s, fade_s
        self._actual_s = self._predicted_s = prior_s

    def took(self, predicted_s: float, actual_s: float) -> None:
        """``actual_s`` seconds were needed where ``predicted_s`` were predicted."""
        if predicted_s > 0.0:
            keep = 1.0 - min(0.5, predicted_s / self._fade_s)
            self._be(self._actual_s * keep + actual_s, self._predicted_s * keep + predicted_s)

    def fade(self, share: float) -> None:
        """Give ``share`` of what was seen back to the prior."""
        prior_s = self._prior_s * share
        self._be(self._actual_s * (1.0 - share) + prior_s, self._predicted_s * (1.0 - share) + prior_s)

    def _be(self, actual_s: float, predicted_s: float) -> None:
        self._actual_s, self._predicted_s = actual_s, predicted_s
        self.value = min(_RATIO_MAX, max(_RATIO_MIN, actual_s / predicted_s))


class Calibration:
    """What a gate learns about its engines.

    ``prefill``: seconds to first tokens over what the curve says, decoding on the side included. ``work``: replica-seconds in
    which a line that never ran empty was worked off, over the work in it. ``margin``: share of an objective to plan with.
    ``slots_bound``: share of a line's time in which slots or KV cache kept it back, not compute.
    """

    __slots__ = ("_began_s", "_began_work_s", "_faded_s", "_margin_max", "margin", "prefill", "slots_bound", "work")

    def __init__(self, margin_max: float) -> None:
        self.margin = self._margin_max = margin_max
        self.prefill, self.work = Ratio(1.0, 5.0), Ratio(2.0, 30.0)
        self.slots_bound = 1.0  # until a line has been seen, whatever is scarcer counts
        self._faded_s = 0.0
        self._began_s: float | None = None  # since when somebody has always waited, and the work that began since
        self._began_work_s = 0.0

    def began(self, work_s: float, waiting: int, replicas: int, now_s: float) -> None:
        """Work of one ticket has begun; ``waiting`` others are still in line."""
        if self._began_s is not None:
            self._began_work_s += work_s
            if not waiting or self._began_work_s > _PACE_WORK_S * replicas:
                self.work.took(self._began_work_s, (now_s - self._began_s) * replicas)
                self._began_s, self._began_work_s = None, 0.0
        if waiting and self._began_s is None:
            self._began_s = now_s

    def ran_empty(self) -> None:
        """Nobody waits any more, though not all of them began: the time from here on is nobody's wait."""
        self._began_s, self._began_work_s = None, 0.0

    def kept_back(self, full: int, engines: int) -> None:
        """A look at a line: ``full`` of the engines lack nothing but a slot or cache for its first ticket."""
        if engines > 0:
            self.slots_bound += _SLOTS_STEP * (full / engines - self.slots_bound)

    def rest(self, now_s: float) -> None:
        """Time passes; called at least every few seconds."""
        if now_s - self._faded_s > _REST_S:
            share = min(0.5, (now_s - self._faded_s) / _REST_FADE_S) if self._faded_s else 0.0
            self.prefill.fade(share)
            self.work.fade(share)
            self._faded_s = now_s

    def judged(self, missed: bool) -> None:
        """A request that was served here met or missed its TTFT objective."""
        step = _MARGIN_STEP * (_MISS_TARGET - 1.0 if missed else _MISS_TARGET)
        self.margin = min(self._margin_max, max(_MARGIN_MIN, self.margin + step))


class OutputLengths:
    """Mean output tokens by tenant, template and length of the input: shrunk towards the template's mean, that towards the
    tenant's, and that towards ``guess``. Inputs of one template come in kinds, and each kind has answers of its own.
    """

    _PRIOR = 8.0  # observations that the level above counts for
    _MEMORY = 0.98
    _KEYS_MAX = 16384

    def __init__(self, guess: float) -> None:
        self._guess = guess
        self._seen: OrderedDict[tuple[str, str, int], tuple[float, float]] = OrderedDict()

    def expected(self, tenant: str, template: str, input_tokens: int = 0) -> float:
        """Expected output tokens of the next answer (0 input tokens: their number is unknown)."""
        mean = self._guess
        for key in _levels(tenant, template, input_tokens):
            count, total = self._seen.get(key, (0.0, 0.0))
            mean = (total + self._PRIOR * mean) / (count + self._PRIOR)
        return mean

    def observe(self, tenant: str, template: str, output_tokens: int, input_tokens: int = 0) -> None:
        """An answer had ``output_tokens``. The least recently used keys are forgotten beyond a bound."""
        for key in _levels(tenant, template, input_tokens):
            count, total = self._seen.get(key, (0.0, 0.0))
            self._seen[key] = (count * self._MEMORY + 1.0, total * self._MEMORY + output_tokens)
            self._seen.move_to_end(key)
        while len(self._seen) > self._KEYS_MAX:
            self._seen.popitem(last=False)


def magnitude(input_tokens: int) -> int:
    """Inputs whose lengths differ by less than some 40 % are of one kind: half octaves, from 1; 0 for an unknown length."""
    return 1 + int(2.0 * math.log2(input_tokens)) if input_tokens > 0 else 0


def _levels(tenant: str, template: str, input_tokens: int) -> Iterator[tuple[str, str, int]]:
    """What is known of an answer, the widest group first."""
    yield tenant, "", 0
    if template:
        yield tenant, template, 0
    kind = magnitude(input_tokens)
    if kind:
        yield tenant, template, kind
