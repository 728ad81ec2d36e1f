"""Where ``baseload prices`` takes the price board from: the running gateway, or the site file and the recorded history."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from pricing import board, board_report, history
from pricing.desk import PriceDesk
from pricing.report import PriceReport
from scheduler.config import ClusterConfig
from serving.price_report.history import PriceHistoryView
from serving.recorded_prices import view

_TIMEOUT_S = 10.0
_ANSWER_BYTES_MAX = 64 * 1024 * 1024


class Unreachable(Exception):
    """No gateway answers there."""


class Refused(Exception):
    """The gateway answered, but not with prices; the text is its own."""


def live(url: str, key: str) -> PriceReport:
    """The board of the gateway at ``url``. Raises Unreachable or Refused."""
    request = urllib.request.Request(f"{url}/v1/prices", headers={"authorization": f"Bearer {key}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - the user's own URL
            return msgspec.json.decode(response.read(_ANSWER_BYTES_MAX), type=PriceReport)
    except urllib.error.HTTPError as error:
        raise Refused(f"HTTP {error.code}: {_message(error.read(65536))}") from None
    except msgspec.DecodeError as error:
        raise Refused(f"no price board: {error}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise Unreachable(f"cannot reach {url}: {error}") from None


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def recorded(config: ClusterConfig) -> PriceReport:
    """The board as the site file and the recorded history give it now, without anything running."""
    now_s = time.time()
    desk = PriceDesk(config)
    desk.restore(history.replay(_directory(config)))
    sheet = desk.sheet(now_s)
    return board_report.report(config, board.price(config, now_s, sheet), sheet, now_s, {}, {})


def history_view(config: ClusterConfig, since_s: float = 0.0) -> PriceHistoryView:
    """The recorded history as lines over time, from ``since_s`` on."""
    now_s = time.time()
    found = view(config, history.replay(_directory(config)), now_s)
    return found if not since_s else _since(found, since_s)


def _since(found: PriceHistoryView, since_s: float) -> PriceHistoryView:
    def cut(points: tuple[tuple[float, float | None], ...]) -> tuple[tuple[float, float | None], ...]:
        before = [value for at_s, value in points if at_s <= since_s]
        first = ((since_s, before[-1]),) if before else ()
        return (*first, *(point for point in points if point[0] > since_s))

    names = ("offers", "power", "carbon", "rents")
    lines = {
        name: tuple(msgspec.structs.replace(series, points=cut(series.points)) for series in getattr(found, name))
        for name in names
    }
    marks = tuple(mark for mark in found.marks if mark.at_s >= since_s)
    return PriceHistoryView(**lines, marks=marks)


def _directory(config: ClusterConfig) -> Path:
    return Path(config.prices.history)
