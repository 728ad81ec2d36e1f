"""The replay itself: an open loop. Requests leave at their times, whatever became of those before them.

Only ``concurrency_max`` are in flight. Whoever finds them all taken waits, and that counts: time to first token runs from
the planned start, so that a client that cannot keep up never makes a gateway look quicker (coordinated omission).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp

from serving.replay import words
from serving.replay.plan import Plan, Planned
from serving.replay.stream import Client, Seen

_HEAD_START_S = 0.05
STOPPED = "stopped by Ctrl-C"

Progress = Callable[[int], None]


class Row(NamedTuple):
    """One request that was sent: seconds from the replay's start, tokens, USD. The columns of the CSV file, in order."""

    number: int
    planned_s: float
    sent_s: float
    tenant: str
    service_class: str
    profile: str
    model: str
    source: str
    offer: str
    decision_id: str
    status: int
    problem: str
    input_tokens_wanted: int
    input_tokens: int
    output_tokens_wanted: int
    output_tokens: int
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    usd: float

    @property
    def served(self) -> bool:
        """A whole answer came."""
        return not self.problem


@dataclass(slots=True)
class Played:
    """What was seen so far; ``partial`` says why it is not everything, if it is not."""

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    usd: float = 0.0
    seconds: float = 0.0
    partial: str = ""
    interrupted: bool = False


async def play(plan: Plan, url: str, began: Callable[[], Progress]) -> Played:
    """Send everything. ``began`` is called when the gateway has answered, and gives who hears of requests that ended.

    Raises ReplayError where no gateway is ready. Cancelled later, it returns what it has.
    """
    played = Played(plan)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        client = Client(session, url)
        await client.ready()
        player = _Player(client, played, began())
        try:
            await player.run()
        except asyncio.CancelledError:
            played.partial, played.interrupted = "interrupted", True
    played.rows.sort()
    return played


class _Player:
    def __init__(self, client: Client, played: Played, progress: Progress) -> None:
        self._client, self._played, self._progress = client, played, progress
        self._room = asyncio.Semaphore(played.plan.concurrency_max)
        self._clock = asyncio.get_running_loop().time
        self._start_s = self._clock() + _HEAD_START_S

    async def run(self) -> None:
        """Until the last answer has ended."""
        plan, played = self._played.plan, self._played
        try:
            async with asyncio.TaskGroup() as group:
                for request in plan.requests:
                    if (left_s := self._start_s + request.at_s - self._clock()) > 0.0:
                        await asyncio.sleep(left_s)
                    await self._room.acquire()
                    if played.usd >= plan.usd_max:
                        self._room.release()
                        played.partial = f"answers have cost ${played.usd:.4f}, and --usd-max is {plan.usd_max:g}"
                        break
                    group.create_task(self._one(request))
        finally:
            played.seconds = max(0.0, self._clock() - self._start_s)

    async def _one(self, request: Planned) -> None:
        plan, sent_s = self._played.plan, self._clock()
        kind = plan.kinds[request.kind]
        text = words.prompt(plan.seed, request.number, request.input_tokens, request.difficulty)
        body = {"model": kind.model, "messages": [{"role": "user", "content": text}], **kind.fields}
        seen = Seen(problem=STOPPED)
        try:
            seen = await self._client.chat({**body, "max_tokens": request.output_tokens}, kind.headers, kind.timeout_s)
        finally:
            self._room.release()
            self._played.usd += seen.usd
            self._played.rows.append(self._row(request, seen, sent_s, self._clock()))
            self._progress(len(self._played.rows))

    def _row(self, request: Planned, seen: Seen, sent_s: float, ended_s: float) -> Row:
        profile, planned_s = self._played.plan.kinds[request.kind].profile, self._start_s + request.at_s
        ttft_s = seen.first_s - planned_s if seen.first_s else None
        decodes = not seen.problem and seen.output_tokens > 1
        return Row(
            number=request.number,
            planned_s=request.at_s,
            sent_s=sent_s - self._start_s,
            tenant=profile.tenant,
            service_class=profile.service_class.name,
            profile=profile.name,
            model=self._played.plan.kinds[request.kind].model,
            source=seen.source,
            offer=seen.offer,
            decision_id=seen.decision_id,
            status=seen.status,
            problem=seen.problem,
            input_tokens_wanted=request.input_tokens,
            input_tokens=seen.input_tokens,
            output_tokens_wanted=request.output_tokens,
            output_tokens=seen.output_tokens,
            ttft_s=ttft_s,
            tpot_s=(seen.last_s - seen.first_s) / (seen.output_tokens - 1) if decodes else None,
            e2e_s=ended_s - planned_s if not seen.problem else None,
            usd=seen.usd,
        )
