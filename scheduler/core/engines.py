"""The engines behind one gate: which there are, which answer, and those that are gone while tickets of theirs are held."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.lanes import GateSettings, Lane


class Engines:
    """``lanes`` by replica id; ``_away``: replicas that are not there (yet, or any more) and of which tickets are held."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self.lanes: dict[str, Lane] = {}
        self._away: dict[str, Lane] = {}

    @property
    def running(self) -> int:
        """Tickets that hold a slot."""
        return sum(len(lane.held) for lanes in (self.lanes, self._away) for lane in lanes.values())

    @property
    def healthy(self) -> int:
        """Engines that answer."""
        return sum(1 for lane in self.lanes.values() if lane.healthy)

    @property
    def slots(self) -> int:
        """Slots of the engines that answer."""
        return sum(lane.slots for lane in self.lanes.values() if lane.healthy)

    def set_replicas(self, ids: Iterable[str]) -> None:
        """The replicas that exist; new ones are silent until ``heard``. Tickets that one holds when it goes stay counted
        until they leave.
        """
        known = set(ids)
        for gone in self.lanes.keys() - known:
            self._away[gone] = self.lanes.pop(gone)
            self._away[gone].healthy = False
        self._away = {replica_id: lane for replica_id, lane in self._away.items() if lane.held}
        for replica_id in sorted(known - self.lanes.keys()):
            self.lanes[replica_id] = self._away.pop(replica_id, self._lane())

    def _lane(self) -> Lane:
        return Lane(self._settings.slots, self._settings.kv_tokens)
