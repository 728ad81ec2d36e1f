"""A deadline over a whole HTTP exchange, kept by shutting its sockets.

The timeouts of requests hold between two packets: a source that sends a byte a second, in its headers or its body, keeps
a thread for hours. Here a timer shuts the connection itself, below TLS and whatever else reads from it. Only the
resolver's own timeouts (``getaddrinfo``) lie outside.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pricing.addresses import public


class InsideAddress(ValueError):
    """What was to be asked is in this machine or network, and only what is outside may be."""


class Deadline:
    """Context in which connections may live for ``seconds``; ``passed`` says that it had to cut them.

    ``inside``: the last connection to a source (not to a proxy) went to this machine or network; with ``outside_only`` set
    none may.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.passed = False
        self.inside = False
        self.outside_only = False
        self._end_s = time.monotonic() + seconds
        self._handles: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for handle in self._handles:
            handle.close()

    def left_s(self) -> float:
        """Seconds until the end, never quite zero (which would mean a non-blocking socket)."""
        return max(self._end_s - time.monotonic(), 0.001)

    def connect(self, host: str, port: int, proxy: bool = False) -> socket.socket:
        """A TCP connection to the first address of ``host`` that answers; each gets a fair part of the time left.

        Raises InsideAddress; but a ``proxy`` is the site's own choice, wherever it is.
        """
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        if self.outside_only and not proxy:
            addresses = [found for found in addresses if public(str(found[4][0]))]
            if not addresses:
                raise InsideAddress
        problem: OSError = TimeoutError("no address answered in time")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(self.left_s() / (len(addresses) - tried))
                connection.connect(address)
            except OSError as error:
                connection.close()
                problem = error
                continue
            connection.settimeout(self.left_s())
            self.inside = not proxy and not public(str(address[0]))
            self._watch(connection)
            return connection
        raise problem

    def _watch(self, connection: socket.socket) -> None:
        handle = connection.dup()  # stays valid when TLS takes the descriptor over
        with self._lock:
            self._handles.append(handle)
            passed = self.passed
        if passed:
            _shut(handle)

    def _cut(self) -> None:
        with self._lock:
            self.passed = True
            handles = list(self._handles)
        for handle in handles:
            _shut(handle)


class DeadlineAdapter(HTTPAdapter):
    """Transport of requests whose connections, to the source or to a proxy, live under ``deadline`` (not SOCKS)."""

    def __init__(self, deadline: Deadline) -> None:
        self._pools, self._proxy_pools = _pools(deadline), _pools(deadline, proxy=True)
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._proxy_pools
        return manager


def _pools(deadline: Deadline, proxy: bool = False) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's two kinds of pool, with connections that ``deadline`` opens and watches."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return deadline.connect(self._dns_host, self.port, proxy)

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return deadline.connect(self._dns_host, self.port or 443, proxy)

    return {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": Plain}),
        "https": type("TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": Tls}),
    }


def _shut(handle: socket.socket) -> None:
    with suppress(OSError):  # the other side may have been faster
        handle.shutdown(socket.SHUT_RDWR)
