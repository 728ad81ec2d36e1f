"""What a source may not make BoundedHttp do: take too much in one poll, ask the site's own machines, speak in its errors."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pricing import addresses, deadline
from pricing.feeds import FeedChanged, FeedUnavailable
from pricing.http import POLL_BODIES, POLL_TIMEOUTS, BoundedHttp
from tests.pricing.hostile_source import Source, hostile

OUTSIDE = "127.0.0.2"  # an address of loopback that these tests take for one of the Internet
WORDS = b"the words of a stranger"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def source() -> Iterator[Source]:
    """Inside, on 127.0.0.1."""
    with hostile() as running:
        yield running


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """A source that is taken for one of the Internet."""
    real = addresses.public
    for module in (addresses, deadline):
        monkeypatch.setattr(module, "public", lambda ip: ip == OUTSIDE or real(ip))
    with hostile(OUTSIDE) as running:
        yield running


def resolved(monkeypatch: pytest.MonkeyPatch, *ips: str) -> None:
    """Let every name be resolved to these."""
    real = deadline.socket.getaddrinfo

    def found(host: str, port: int, **options: int) -> list[object]:
        return [one for ip in ips for one in real(ip if host.endswith(".test") else host, port, **options)]

    monkeypatch.setattr(deadline.socket, "getaddrinfo", found)


def test_the_pages_of_one_poll_share_a_bound_on_bytes(source: Source) -> None:
    http = BoundedHttp(5.0, 1000)
    source.answer("/a", b"[" * 700)
    for settled in (http.accept, http.forget):
        assert [len(http.get(source.url + "/a") or b"") for _ in range(2)] == [700, 700]
        with pytest.raises(FeedChanged, match=f"larger than {POLL_BODIES * 1000 - 1400} bytes"):
            http.get(source.url + "/a")
        settled()
    source.answer("/b", b"[" * 1000)
    for _ in range(POLL_BODIES):
        http.get(source.url + "/b")
    with pytest.raises(FeedUnavailable, match="2000 bytes"):
        http.get(source.url + "/b")


def test_the_pages_of_one_poll_share_a_bound_on_time(source: Source) -> None:
    http = BoundedHttp(0.1, 1000)
    source.trickle("/a", b"[]", every_s=0.03)

    def pages() -> int:
        began_s, count = time.monotonic(), 0
        with pytest.raises(FeedUnavailable):
            while time.monotonic() - began_s < 10.0:
                http.get(source.url + "/a")
                count += 1
        assert time.monotonic() - began_s < POLL_TIMEOUTS * 0.1 + 1.0
        return count

    assert pages() < POLL_TIMEOUTS * 0.1 / 0.06 + 1
    with pytest.raises(FeedUnavailable, match="already taken"):
        http.get(source.url + "/a")
    http.forget()
    assert http.get(source.url + "/a") == b"[]"


def test_a_feed_may_want_less_than_the_site_allows_and_not_more(source: Source) -> None:
    source.answer("/a", b"[" * 900)
    with pytest.raises(FeedChanged, match="larger than 800 bytes"):
        BoundedHttp(5.0, 1000).get(source.url + "/a", bytes_max=800)
    with pytest.raises(FeedChanged, match="larger than 500 bytes"):
        BoundedHttp(5.0, 500).get(source.url + "/a", bytes_max=800)


def test_a_feed_that_reads_the_same_answer_otherwise_tomorrow_gets_it_in_any_case(source: Source) -> None:
    http = BoundedHttp(5.0, 1000)
    source.answer("/a", b"[1]", etag='"1"')
    for conditional in (True, False, True):  # the first brings an ETag, the last must not use it
        assert http.get(source.url + "/a", conditional=conditional) == b"[1]"
        http.accept()
    assert http.get(source.url + "/a") is None


@pytest.mark.parametrize(
    ("ip", "is_public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        *((ip, False) for ip in ("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0")),
        *((ip, False) for ip in ("100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1")),
        *((ip, False) for ip in ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "ff02::1")),
    ],
)
def test_addresses_of_the_internet_are_told_from_others(ip: str, is_public: bool) -> None:
    assert addresses.public(ip) is is_public
    host = f"[{ip}]" if ":" in ip else ip
    assert addresses.inside(f"http://{host}:80/a") is not is_public


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.1", "2130706433", "0x7f.0.0.1", "017700000001"]
)
def test_this_machine_is_known_by_its_other_names(host: str) -> None:
    assert addresses.inside(f"http://{host}/a")
    assert not addresses.inside("http://prices.example/a")


@pytest.mark.parametrize(
    "to", ["http://127.0.0.1:{port}/secret", "http://2130706433:{port}/secret", "http://in.test:{port}/secret"]
)
def test_a_source_outside_cannot_lead_to_a_machine_of_the_site(
    source: Source, outside: Source, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    resolved(monkeypatch, "127.0.0.1")
    source.answer("/secret", b"[1]")
    outside.redirect("/hop", to.format(port=source.url.rpartition(":")[2]))
    outside.redirect("/a", "/hop")
    with pytest.raises(FeedChanged, match="a redirect from outside"):
        BoundedHttp(5.0, 1000).get(outside.url + "/a")
    assert len(outside.asked) == 2
    assert source.asked == []


def test_a_source_outside_may_lead_elsewhere_outside(outside: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name's addresses, those inside are passed over."""
    resolved(monkeypatch, "127.0.0.1", OUTSIDE)
    outside.redirect("/a", f"http://out.test:{outside.url.rpartition(':')[2]}/b")
    outside.answer("/b", b"[1]")
    assert BoundedHttp(5.0, 1000).get(outside.url + "/a") == b"[1]"


def test_a_mirror_inside_may_lead_to_others_inside_and_outside(source: Source, outside: Source) -> None:
    with hostile() as other:
        source.redirect("/a", other.url + "/a")
        other.redirect("/a", outside.url + "/a")
        outside.answer("/a", b"[1]")
        assert BoundedHttp(5.0, 1000).get(source.url + "/a") == b"[1]"


def test_a_proxy_inside_may_be_used_and_not_to_ask_the_site(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", source.url)
    source.redirect("/a", "http://prices.invalid/b")
    source.answer("/b", b"[1]")
    assert BoundedHttp(5.0, 1000).get("http://prices.invalid/a") == b"[1]"
    source.redirect("/a", "http://169.254.169.254/b")
    asked = len(source.asked)
    with pytest.raises(FeedChanged, match="a redirect from outside"):
        BoundedHttp(5.0, 1000).get("http://prices.invalid/a")
    assert len(source.asked) == asked + 1


def test_only_the_source_itself_speaks_in_an_error(source: Source) -> None:
    source.answer("/b", WORDS, 403)
    source.redirect("/a", "/b")
    with pytest.raises(FeedChanged, match=r"403: the words"):
        BoundedHttp(5.0, 1000).get(source.url + "/a")
    with hostile() as other:
        other.redirect("/a", source.url + "/b")
        with pytest.raises(FeedChanged, match=r"HTTP 403$"):
            BoundedHttp(5.0, 1000).get(other.url + "/a")
