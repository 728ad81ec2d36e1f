"""``baseload explain``: the merit order of one request, term by term, as a table."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any


def run(
    prompt: str, model: str, url: str, key: str, labels: list[str], zones: str, max_tokens: int, as_json: bool
) -> int:
    """Ask ``/v1/explain``. Exit status 0; 1 where the gateway refuses; 3 where it cannot be reached."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    if labels:
        headers["x-baseload-labels"] = ",".join(labels)
    if zones:
        headers["x-baseload-zones"] = zones
    request = urllib.request.Request(f"{url}/v1/explain", json.dumps(body).encode(), headers)  # noqa: S310 - user's own URL
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            text = response.read().decode()
    except urllib.error.HTTPError as error:
        print(f"baseload: HTTP {error.code}: {_message(error.read())}", file=sys.stderr)
        return 1
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"baseload: cannot reach {url}: {error} (is `baseload serve` running?)", file=sys.stderr)
        return 3
    if as_json:
        print(text)
    else:
        _show(json.loads(text))
    return 0


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def _usd(value: float) -> str:
    return f"{value:.6f}" if value >= 1e-6 or not value else f"{value:.1e}"


def _bid_in_words(offer: str, bid: dict[str, Any]) -> str:
    if bid["solved_s_ago"] is None:
        return f"{offer}: about {bid['wait_s']:.2f} s in line; its time has no price yet."
    return (
        f"{offer}: about {bid['wait_s']:.2f} s in line; its time costs ${_usd(bid['usd_per_replica_s'])} a replica-second, "
        f"${_usd(bid['price_usd'])} for this request (solved {bid['solved_s_ago']:.0f} s ago)."
    )


def _show(answer: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    names = list(dict.fromkeys(name for quote in answer["merit_order"] for name in quote["terms"]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("offer", "zone", "USD", *names):
        table.add_column(heading, justify="left" if heading in ("offer", "zone") else "right", no_wrap=True)
    for quote in answer["merit_order"]:
        terms = [_usd(quote["terms"][name]) if name in quote["terms"] else "" for name in names]
        table.add_row(quote["offer"], quote["zone"], _usd(quote["usd"]), *terms)
    if answer["merit_order"]:
        print(
            "Merit order, cheapest expected cost first; tokens and energy are avoidable money, the rest is worth in USD."
        )
        console.print(table)
    for quote in answer["merit_order"]:
        if quote.get("bid"):
            console.print(_bid_in_words(quote["offer"], quote["bid"]), highlight=False, soft_wrap=True)
    for rejection in answer["rejected"]:
        console.print(f"rejected: {rejection['offer']}: {rejection['reason']}", highlight=False)
    chosen, request = answer["decision"], answer["request"]
    if chosen["offer"]:
        console.print(
            f"It would go to {chosen['offer']} (difficulty {request['difficulty']:.2f} of 1).", highlight=False
        )
    else:
        console.print(f"It would not be served: {chosen['reason']}", highlight=False)
