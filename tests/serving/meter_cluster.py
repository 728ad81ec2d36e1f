"""Run by test_meter_actors: two Ray nodes on this machine, a meter on each; prints what happens to them, step by step."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import ray
from ray.cluster_utils import Cluster

from serving.meter_process import MeterSettings
from serving.pools_process import Meters, meter_name

reports: dict[str, list[dict[str, object]]] = {}


class Controller(BaseHTTPRequestHandler):
    """Takes reports and answers that nobody is anywhere."""

    def do_POST(self) -> None:
        report = json.loads(self.rfile.read(int(self.headers["content-length"])))
        reports.setdefault(report["node"], []).append(report)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)
    print(f"step: {what}", flush=True)


def heard(nodes: set[str]) -> Callable[[], bool]:
    reports.clear()
    return lambda: set(reports) == nodes and all(len(found) > 2 for found in reports.values())


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Controller)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, namespace="baseload", log_to_driver=False)
    settings = MeterSettings(f"http://127.0.0.1:{server.server_port}", "t", 0.2, {})
    meters = Meters(settings)
    head = ray.get_runtime_context().get_node_id()
    meters.place()
    until(heard({head}), "one node, one meter")
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    other = ({one["NodeID"] for one in ray.nodes()} - {head}).pop()
    meters.place()
    meters.place()
    until(heard({head, other}), "two nodes, two meters")
    started_s = reports[head][-1]["started_s"]
    pid = ray.get(ray.get_actor(meter_name(settings, head)).pid.remote())
    os.kill(pid, 9)
    until(lambda: reports[head][-1]["started_s"] != started_s, "a killed meter comes back")
    started_s = reports[head][-1]["started_s"]
    ray.kill(ray.get_actor(meter_name(settings, head)), no_restart=True)

    def placed_again() -> bool:
        meters.place()
        return reports[head][-1]["started_s"] != started_s

    until(placed_again, "one that Ray gave up is placed again")
    cluster.remove_node(node)
    until(lambda: not any(one["Alive"] for one in ray.nodes() if one["NodeID"] == other), "a node has gone")
    meters.place()
    until(heard({head}), "its meter with it")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
