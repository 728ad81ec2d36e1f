"""Times of one attempt, and its outcome."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.core.market import Outcome, Status
from scheduler.core.supply import Offer, Usage


class Book:
    """``on_first_byte`` is called when the first token of a stream is there."""

    __slots__ = ("_clock", "_started_s", "_ttft_s", "offer", "on_first_byte")

    def __init__(self, offer: Offer, started_s: float, clock: Callable[[], float]) -> None:
        self.offer, self._started_s, self._clock = offer, started_s, clock
        self._ttft_s: float | None = None
        self.on_first_byte: Callable[[], None] | None = None

    def first_byte(self, is_token: bool = True) -> None:
        """``is_token``: of a stream; a plain answer comes when its last token is there."""
        self._ttft_s = self._clock() - self._started_s
        if is_token and self.on_first_byte is not None:
            self.on_first_byte()

    def outcome(
        self,
        status: Status,
        usage: Usage = Usage(0, 0, 0),  # noqa: B008 - immutable
        http_status: int = 0,
        *,
        error: str = "",
        retry_after_s: float = 0.0,
        measured: bool = False,
        begun: bool = False,
    ) -> Outcome:
        """``usage`` costs money where the source has answered or may have begun to."""
        paid = status == "complete" or begun
        return Outcome(
            offer_id=self.offer.id,
            status=status,
            started_s=self._started_s,
            ended_s=self._clock(),
            usage=usage if paid else Usage(0, 0, 0),
            usd=self.offer.rate.usd(usage) if paid else 0.0,
            ttft_s=self._ttft_s,
            first_byte_sent=status == "interrupted",
            http_status=http_status,
            error=error,
            retry_after_s=retry_after_s,
            measured=measured,
        )
