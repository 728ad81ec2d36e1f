"""Made-up records for tests, benchmarks and demonstrations: the size and shape of real ones."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.ledger.records import AttemptLine, Begin, End, QuoteLine, RejectionLine

AT_S = 1_750_000_000.0  # 2025-06-15 15:06:40 UTC


def begin(request_id: str, **changes: Any) -> Begin:
    """A begun request with three quotes and one rejection; ``changes`` replace fields."""
    record = Begin(
        id=request_id,
        at_s=AT_S,
        writer="gateway-0",
        tenant="research",
        service_class="interactive",
        model_requested="auto",
        session="s-81f0",
        zones=["eu-de", "eu-fr"],
        labels=["team:search"],
        stream=True,
        market_version=4711,
        difficulty=0.31,
        input_tokens=1840,
        cached_tokens=1024,
        output_tokens=260,
        merit_order=[
            QuoteLine("pool-a", 0.000061, {"energy": 0.000021, "scarcity": 0.00003, "waiting": 0.00001}),
            QuoteLine("spot-b", 0.00031, {"energy": 0.0003, "waiting": 0.00001}),
            QuoteLine("provider-c", 0.0021, {"tokens": 0.002, "waiting": 0.0001}),
        ],
        rejected=[RejectionLine("provider-d", "zone")],
    )
    return msgspec.structs.replace(record, **changes)


def end(request_id: str, **changes: Any) -> End:
    """A complete end on the first quote; ``changes`` replace fields."""
    record = End(
        id=request_id,
        at_s=AT_S + 1.9,
        writer="gateway-0",
        status="complete",
        http_status=200,
        offer_id="pool-a",
        source="base",
        model="small-8b",
        attempts=[
            AttemptLine(
                offer_id="pool-a",
                status="complete",
                http_status=200,
                started_s=AT_S + 0.002,
                ttft_s=0.21,
                duration_s=1.898,
                usd_avoidable=0.000024,
                input_tokens=1840,
                cached_tokens=1024,
                output_tokens=301,
            )
        ],
        input_tokens=1840,
        cached_tokens=1024,
        output_tokens=301,
        usd_avoidable=0.000024,
        usd_fixed_share=0.0004,
        usd_counterfactual=0.00034,
        ttft_s=0.212,
        duration_s=1.9,
    )
    return msgspec.structs.replace(record, **changes)
