"""When the simulated provider's tokens are due, and which requests it takes on."""

from __future__ import annotations

import random
from collections import deque

from serving.upstreams.simulated.requests import ApiError
from serving.upstreams.simulated.settings import Settings

NOISE_COUNT = 1024  # a power of two: positions wrap by a mask
WRITE_GAP_MIN_S = 0.002  # tokens that come faster share a write; timers are no finer than a millisecond
WRITE_TOKENS_MAX = 512  # of one choice, so that one stream cannot keep the others waiting
EARLY_S = 0.0005  # a timer may fire this much early, and the token goes out then
WINDOW_S = 60.0


class Chance:
    """All that is random in the provider: the same seed and the same order of requests give the same again."""

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)  # noqa: S311 (rehearsal, no secrets)
        self._noise = tuple(self._generator.uniform(-0.5, 0.5) for _ in range(NOISE_COUNT))

    def fails(self, settings: Settings) -> bool:
        """Whether the next request is one of those that ``error_rate`` fails."""
        return self._generator.random() < settings.error_rate

    def schedule(self, settings: Settings, now_s: float) -> Schedule:
        """The due times of an answer that was asked for at ``now_s``."""
        offset = self._generator.getrandbits(10)
        swing = 1.0 + settings.jitter * self._generator.uniform(-1.0, 1.0)
        first_s = now_s + settings.ttft_s * settings.slow_factor * swing
        gap_s = settings.slow_factor / settings.tokens_per_s
        return Schedule(first_s, gap_s, settings.jitter, self._noise, offset)


class Schedule:
    """Absolute due times of tokens 0, 1, 2, ...: a late token does not delay the ones after it."""

    __slots__ = ("_amplitude", "_noise", "_offset", "first_s", "gap_s")

    def __init__(self, first_s: float, gap_s: float, amplitude: float, noise: tuple[float, ...], offset: int) -> None:
        self.first_s, self.gap_s = first_s, gap_s
        self._amplitude, self._noise, self._offset = amplitude, noise, offset

    def due_s(self, i: int) -> float:
        """When token ``i`` is due; never before token ``i - 1``, as noise moves it by half a gap at most."""
        if i == 0 or not self._amplitude:
            return self.first_s + i * self.gap_s
        noise = self._amplitude * self._noise[(self._offset + i) & (NOISE_COUNT - 1)]
        return self.first_s + (i + noise) * self.gap_s

    def due_count(self, sent: int, end: int, now_s: float) -> int:
        """How many of the first ``end`` tokens are due by now, given that ``sent`` of them are."""
        while sent < end and self.due_s(sent) <= now_s + EARLY_S:
            sent += 1
        return sent


class Admission:
    """Turns away what exceeds the concurrency and the rate, and says when to come back."""

    def __init__(self) -> None:
        self._arrivals_s: deque[float] = deque()
        self._ends_s: dict[str, float] = {}

    def admit(self, serial: str, settings: Settings, now_s: float) -> None:
        """Takes a request on. Raises ApiError 429 with the time until there is room."""
        if settings.concurrency_max and len(self._ends_s) >= settings.concurrency_max:
            wait_s = max(0.0, min(self._ends_s.values()) - now_s)
            raise _too_many(f"{settings.concurrency_max} requests at a time", wait_s)
        limit = settings.requests_per_min_max
        if limit:
            while self._arrivals_s and self._arrivals_s[0] <= now_s - WINDOW_S:
                self._arrivals_s.popleft()
            over = len(self._arrivals_s) - limit
            if over >= 0:
                raise _too_many(f"{limit} requests per minute", self._arrivals_s[over] + WINDOW_S - now_s)
            self._arrivals_s.append(now_s)
        else:
            self._arrivals_s.clear()
        self._ends_s[serial] = now_s

    def expect_end(self, serial: str, end_s: float) -> None:
        """Notes when an admitted request will be done."""
        self._ends_s[serial] = end_s

    def leave(self, serial: str) -> None:
        """Frees the place of a request."""
        del self._ends_s[serial]


def _too_many(limit: str, wait_s: float) -> ApiError:
    message = f"rate limit reached: {limit}; try again in {wait_s:.3f} s"
    return ApiError(429, message, "requests", code="rate_limit_exceeded", retry_after_s=wait_s)
