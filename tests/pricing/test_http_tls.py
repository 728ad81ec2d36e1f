"""The deadline and the redirects of BoundedHttp over TLS, with a certificate made for the occasion."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pricing.feeds import FeedChanged, FeedUnavailable
from pricing.http import BoundedHttp


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key, valid for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "loopback.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def serving(certificate: Path, answer: bytes, every_s: float = 0.0) -> Iterator[str]:
    """One TLS connection that gets ``answer``, a byte every ``every_s`` seconds if that is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve() -> None:
        with suppress(OSError):
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(65536)
                for piece in [answer] if not every_s else [bytes([byte]) for byte in answer]:
                    connection.sendall(piece)
                    time.sleep(every_s)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5.0)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}/prices"
        finally:
            thread.join()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n[1]"


def test_a_body_comes_over_tls_with_the_certificates_of_the_environment(certificate: Path) -> None:
    with serving(certificate, OK) as url:
        assert BoundedHttp(5.0, 1000).get(url) == b"[1]"


def test_a_certificate_that_nobody_vouches_for_is_an_unavailable_source(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with serving(certificate, OK) as url, pytest.raises(FeedUnavailable, match="TLS"):
        BoundedHttp(5.0, 1000).get(url)


def test_a_source_that_trickles_over_tls_is_cut(certificate: Path) -> None:
    began_s = time.monotonic()
    with serving(certificate, OK, every_s=0.05) as url, pytest.raises(FeedUnavailable, match=r"within 0\.5 s"):
        BoundedHttp(0.5, 1000).get(url)
    assert time.monotonic() - began_s < 2.0


def test_a_redirect_from_https_down_to_http_is_not_followed(certificate: Path) -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/prices\r\nContent-Length: 0\r\n\r\n"
    with serving(certificate, answer) as url, pytest.raises(FeedChanged, match="from https to http"):
        BoundedHttp(5.0, 1000).get(url)
