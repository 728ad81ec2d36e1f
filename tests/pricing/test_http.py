"""The network as feeds see it, against a source that does all that sources do wrong."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from pricing.feeds import FeedChanged, FeedError, FeedOffline, FeedUnavailable
from pricing.http import BoundedHttp, OfflineHttp
from pricing.http_errors import RETRY_AFTER_S_MAX
from tests.pricing.hostile_source import Source, hostile

KEY = "sk-very-secret-key"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def source() -> Iterator[Source]:
    with hostile() as running:
        yield running


@pytest.fixture
def http() -> BoundedHttp:
    return BoundedHttp(timeout_s=5.0, bytes_max=1_000_000)


def refused(http: BoundedHttp, url: str, kind: type[FeedError]) -> FeedError:
    """The error of a GET, which must be exactly of that kind."""
    with pytest.raises(FeedError) as caught:
        http.get(url, {"token": KEY}, {"Authorization": f"Bearer {KEY}"})
    assert type(caught.value) is kind, caught.value
    assert KEY not in str(caught.value)
    return caught.value


def test_a_body_comes_back_and_says_who_asked(source: Source, http: BoundedHttp) -> None:
    source.answer("/a", b"[1]")
    assert http.get(source.url + "/a", {"zone": "DE LU"}, {"X-Key": KEY}) == b"[1]"
    asked = source.asked[0]
    assert asked.query == {"zone": "DE LU"}
    assert asked.headers["x-key"] == KEY
    assert asked.headers["user-agent"].startswith("baseload/")


def test_a_compressed_body_comes_back_as_it_was(source: Source, http: BoundedHttp) -> None:
    source.gzip("/a", b"[1]" * 100_000)
    assert http.get(source.url + "/a") == b"[1]" * 100_000


@pytest.mark.parametrize("validator", [{"etag": 'W/"7"'}, {"last_modified": "Wed, 21 Oct 2026 07:28:00 GMT"}])
def test_an_answer_in_use_is_not_fetched_again(source: Source, http: BoundedHttp, validator: dict[str, str]) -> None:
    source.answer("/a", b"[1]", **validator)  # type: ignore[arg-type]
    assert http.get(source.url + "/a") == b"[1]"
    http.accept()
    for _ in range(3):  # a 304 is in use as well
        assert http.get(source.url + "/a") is None
        http.accept()


def test_an_answer_that_could_not_be_read_is_fetched_again(source: Source, http: BoundedHttp) -> None:
    source.answer("/a", b"not what the feed expects", etag='"1"')
    for _ in range(2):
        assert http.get(source.url + "/a") is not None
        http.forget()
    assert [asked.headers.get("if-none-match") for asked in source.asked] == [None, None]


def test_an_answer_nobody_accepted_is_fetched_again(source: Source, http: BoundedHttp) -> None:
    source.answer("/a", b"[1]", etag='"1"')
    assert http.get(source.url + "/a") == http.get(source.url + "/a") == b"[1]"


def test_validators_belong_to_one_query(source: Source, http: BoundedHttp) -> None:
    source.answer("/a", b"[1]", etag='"1"')
    http.get(source.url + "/a", {"zone": "FR"})
    http.accept()
    assert http.get(source.url + "/a", {"zone": "DE"}) == b"[1]"


def test_a_poll_of_several_addresses_never_hears_that_one_of_them_has_not_changed(
    source: Source, http: BoundedHttp
) -> None:
    for _ in range(2):
        for path in ("/a", "/b"):
            source.answer(path, b"[1]", etag='"1"')
            assert http.get(source.url + path) == b"[1]"
        http.accept()


def test_a_poll_that_failed_in_part_is_not_conditional_next_time(source: Source, http: BoundedHttp) -> None:
    source.answer("/a", b"[1]", etag='"1"')
    source.broken("/b")
    for _ in range(2):
        assert http.get(source.url + "/a") == b"[1]"
        with pytest.raises(FeedUnavailable):
            http.get(source.url + "/b")
        http.accept()


def test_a_304_that_nobody_asked_for_is_an_error(source: Source, http: BoundedHttp) -> None:
    source.not_modified("/a")
    assert "304" in str(refused(http, source.url + "/a", FeedChanged))
    source.answer("/b", b"[1]")  # no validator: the next 304 is as wrong
    http.get(source.url + "/b")
    http.accept()
    source.not_modified("/b")
    with pytest.raises(FeedChanged, match="304"):
        http.get(source.url + "/b")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418])
def test_a_refusal_names_the_status_and_no_secret_that_the_source_repeats(
    source: Source, http: BoundedHttp, status: int
) -> None:
    source.answer("/a", f"bad\r\n\x1b[31m key {KEY} {'x' * 5000}".encode(), status)
    text = str(refused(http, source.url + "/a", FeedChanged))
    assert f"HTTP {status}" in text
    assert "bad" in text
    assert text.isprintable()
    assert len(text) < 200


@pytest.mark.parametrize("status", [204, 206, 300])
def test_a_success_that_is_no_200_is_not_what_was_asked_for(source: Source, http: BoundedHttp, status: int) -> None:
    source.answer("/a", b"", status)
    refused(http, source.url + "/a", FeedChanged)


@pytest.mark.parametrize("status", [500, 502, 504])
def test_an_error_of_the_source_is_temporary(source: Source, http: BoundedHttp, status: int) -> None:
    source.broken("/a", status)
    assert f"HTTP {status}" in str(refused(http, source.url + "/a", FeedUnavailable))


@pytest.mark.parametrize(
    ("header", "low_s", "high_s"),
    [
        ("120", 120, 120),
        ("", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("NaN", 0, 0),
        ("1e300", RETRY_AFTER_S_MAX, RETRY_AFTER_S_MAX),
        ("in ten minutes", 500, 600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_S_MAX, RETRY_AFTER_S_MAX),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_source_says_when_to_come_back(
    source: Source, http: BoundedHttp, header: str, low_s: float, high_s: float, status: int
) -> None:
    if header == "in ten minutes":
        header = formatdate(time.time() + 600, usegmt=True)
    source.busy("/a", header, status)
    error = refused(http, source.url + "/a", FeedUnavailable)
    assert isinstance(error, FeedUnavailable)
    assert low_s <= error.retry_after_s <= high_s


@pytest.mark.parametrize("behaviour", ["silent", "trickle", "trickled headers", "late end"])
def test_no_source_holds_a_thread_much_longer_than_the_timeout(source: Source, behaviour: str) -> None:
    {
        "silent": lambda: source.silent("/a"),
        "trickle": lambda: source.trickle("/a", b"[1]" * 100, every_s=0.05),
        "trickled headers": lambda: source.trickle("/a", b"[]", every_s=0.05, headers_too=True),
        # Connections that are cut look like bodies that end: neither has a length.
        "late end": lambda: source.raw("/a", b"HTTP/1.0 200 OK\r\n\r\n[") or source.redirect("/b", "/a"),
    }[behaviour]()
    if behaviour == "late end":
        source.trickle("/a", b"[" * 100, every_s=0.05)
    began_s, threads = time.monotonic(), threading.active_count()
    assert "within 0.4 s" in str(refused(BoundedHttp(0.4, 1000), source.url + "/a", FeedUnavailable))
    assert time.monotonic() - began_s < 1.5
    assert threading.active_count() <= threads + 1  # the source's own


def test_redirects_share_one_deadline(source: Source) -> None:
    source.redirect("/a", "/b")
    source.trickle("/b", b"[" * 100, every_s=0.05)
    began_s = time.monotonic()
    refused(BoundedHttp(0.4, 1000), source.url + "/a", FeedUnavailable)
    assert time.monotonic() - began_s < 1.5


def test_a_slow_but_timely_answer_is_taken(source: Source, http: BoundedHttp) -> None:
    source.trickle("/a", b"[1,2]", every_s=0.02, headers_too=False)
    assert http.get(source.url + "/a") == b"[1,2]"


def test_a_truncated_body_is_no_body(source: Source, http: BoundedHttp) -> None:
    source.truncate("/a", b"[1", promised=10)
    assert "truncated" in str(refused(http, source.url + "/a", FeedUnavailable))
    source.gzip("/b", b"[1]" * 1000, cut=4)
    assert "truncated" in str(refused(http, source.url + "/b", FeedUnavailable))


@pytest.mark.parametrize("body", [b"[" * 1001, b"x" * 5_000_000])
def test_a_body_larger_than_allowed_is_refused(source: Source, body: bytes) -> None:
    source.answer("/a", body)
    assert "larger than 1000 bytes" in str(refused(BoundedHttp(5.0, 1000), source.url + "/a", FeedChanged))


def test_a_body_of_exactly_the_allowed_size_is_taken(source: Source) -> None:
    source.answer("/a", b"[" * 1000)
    source.gzip("/b", b"[" * 1000)
    http = BoundedHttp(5.0, 1000)
    assert http.get(source.url + "/a") == http.get(source.url + "/b") == b"[" * 1000


def test_an_endless_body_is_refused(source: Source, http: BoundedHttp) -> None:
    source.endless("/a")
    refused(http, source.url + "/a", FeedChanged)


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(source: Source, http: BoundedHttp) -> None:
    source.gzip("/a", b"\0" * 200_000_000)
    began_s = time.monotonic()
    refused(http, source.url + "/a", FeedChanged)
    assert time.monotonic() - began_s < 2.0


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_body_that_is_not_packed_as_it_says_is_refused(source: Source, http: BoundedHttp, encoding: str) -> None:
    source.answer("/a", b"[1]", headers={"Content-Encoding": encoding})
    refused(http, source.url + "/a", FeedChanged)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.0 2OO OK\r\n\r\n", b"\x00" * 100, b"HTTP/1.0 200 OK\r\nA" + b"a" * 70_000]
)
def test_something_that_is_no_http_is_an_unavailable_source(source: Source, http: BoundedHttp, answer: bytes) -> None:
    source.raw("/a", answer)
    refused(http, source.url + "/a", FeedUnavailable)


def test_a_source_that_is_not_there_is_unavailable(http: BoundedHttp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused(http, f"http://127.0.0.1:{port}/a", FeedUnavailable)
    refused(http, "http://nowhere.invalid/a", FeedUnavailable)


def test_a_few_redirects_are_followed_and_a_loop_is_not(source: Source, http: BoundedHttp) -> None:
    for number in range(3):
        source.redirect(f"/{number}", f"/{number + 1}", status=(301, 307, 308)[number])
    source.answer("/3", b"[1]", etag='"1"')
    assert http.get(source.url + "/0") == b"[1]"
    http.accept()
    assert http.get(source.url + "/0") is None
    source.clear()
    source.redirect("/a", "/a")
    refused(http, source.url + "/a", FeedChanged)
    assert len(source.asked) == 4


def test_keys_stay_with_the_host_they_were_meant_for(source: Source, http: BoundedHttp) -> None:
    with hostile() as other:
        source.redirect("/a", other.url + "/b")
        other.answer("/b", b"[1]")
        assert http.get(source.url + "/a", {"token": KEY}, {"Authorization": KEY, "X-Key": KEY}) == b"[1]"
        assert KEY in str(source.asked)
        assert KEY not in str(other.asked)


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://x/y", "gopher://x", "http://[", "//["])
def test_a_redirect_leads_nowhere_but_to_http(source: Source, http: BoundedHttp, to: str) -> None:
    source.redirect("/a", to)
    refused(http, source.url + "/a", FeedChanged)


def test_a_redirect_never_leads_down_from_https() -> None:
    from pricing.addresses import next_address

    assert next_address("http://a/b", "https://c/d") == "https://c/d"
    with pytest.raises(FeedChanged, match="redirect from https to http"):
        next_address("https://a/b", f"http://a/b?token={KEY}")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "nonsense", "http://", "http://[::1", "ftp://x/y"])
def test_only_http_addresses_are_asked(http: BoundedHttp, url: str) -> None:
    refused(http, url, FeedChanged)


def test_a_key_that_cannot_be_a_header_is_not_repeated(source: Source, http: BoundedHttp) -> None:
    for value in (f"{KEY}\n", f"{KEY}€"):
        with pytest.raises(FeedChanged) as caught:
            http.get(source.url + "/a", headers={"Authorization": value})
        assert KEY not in str(caught.value)


def test_neither_logs_nor_tracebacks_repeat_the_query(
    source: Source, http: BoundedHttp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source.answer("/a", b"[1]")
    http.get(source.url + "/a", {"token": KEY})
    source.hang_up("/b")
    try:
        http.get(source.url + "/b", {"token": KEY})
    except FeedUnavailable:
        logging.getLogger("poller").exception("poll failed")
    assert "/a" in caplog.text
    assert KEY not in caplog.text


def test_the_proxy_of_the_environment_is_used(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", source.url)
    source.answer("/a", b"[1]")
    assert BoundedHttp(5.0, 1000).get("http://prices.invalid/a") == b"[1]"
    assert source.asked[0].target == "http://prices.invalid/a"
    source.trickle("/a", b"[]", every_s=0.05, headers_too=True)
    refused(BoundedHttp(0.4, 1000), "http://prices.invalid/a", FeedUnavailable)


def test_the_netrc_of_whoever_runs_this_is_not_sent(
    source: Source, http: BoundedHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login me password {KEY}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    source.answer("/a", b"[1]")
    http.get(source.url + "/a")
    assert "authorization" not in source.asked[0].headers


def test_an_air_gapped_site_asks_nobody() -> None:
    with pytest.raises(FeedOffline, match="air-gapped"):
        OfflineHttp().get("http://127.0.0.1:1/a")
