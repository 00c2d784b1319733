"""TLS: certificates are checked against the name, and the deadline holds there too."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from notifications.webhooks import connections
from notifications.webhooks.egress import Sender
from notifications.webhooks.lookup import Destination, Lookup
from tests.notifications.webhooks.sink import OK, Script, Sink, Visitor, answering

OpenSink = Callable[[Script], Sink]
OpenSender = Callable[..., Sender]

BODY = b'{"type":"job.completed"}'
HOST = "hooks.example"


@dataclass(frozen=True, kw_only=True)
class Certificates:
    """A test authority and a certificate of it for `hooks.example`."""

    ca_file: str
    chain_file: str


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca_key, ca = _issue("Test authority", None, None)
    key, certificate = _issue(HOST, ca_key, ca)
    ca_file, chain_file = folder / "ca.pem", folder / "chain.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    chain_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return Certificates(ca_file=str(ca_file), chain_file=str(chain_file))


def _issue(
    name: str, issuer_key: ec.EllipticCurvePrivateKey | None, issuer: x509.Certificate | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A certificate as strictly as Python 3.13 wants it; an authority if it has no issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    is_authority = issuer_key is None
    signing_key = issuer_key or key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name.replace(" ", "-")), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    usage = dict.fromkeys(
        [
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=is_authority, crl_sign=is_authority, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signing_key, hashes.SHA256())
    )
    return key, certificate


def under_tls(certificates: Certificates, script: Script, seen_names: list[str] | None = None) -> Script:
    """The same script behind a handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain_file)
    if seen_names is not None:
        context.sni_callback = lambda _, name, __: seen_names.append(name or "")

    def secured(visitor: Visitor) -> None:
        with context.wrap_socket(visitor.sock, server_side=True) as sock:
            visitor.sock = sock
            script(visitor)

    return secured


def leading_to(port: int) -> Lookup:
    def lookup(host: str, _: int, timeout_seconds: float) -> list[Destination]:
        return [Destination(family=socket.AF_INET, socket_address=("127.0.0.1", port))]

    return lookup


def test_a_trusted_certificate_of_the_name_is_accepted(
    open_sink: OpenSink, open_sender: OpenSender, certificates: Certificates
) -> None:
    seen_names: list[str] = []
    sink = open_sink(under_tls(certificates, answering(OK), seen_names))
    sender = open_sender(ca_file=certificates.ca_file, lookup=leading_to(sink.port))
    answers = [sender.post(f"https://{HOST}/hook", BODY, {}) for _ in range(3)]

    assert [(answer.status_code, answer.body_start) for answer in answers] == [(200, "ok")] * 3
    assert seen_names == [HOST]
    assert sink.received[0].headers["host"] == HOST
    assert sink.connections == 1


def test_a_trusted_certificate_of_the_address_is_accepted(
    open_sink: OpenSink, open_sender: OpenSender, certificates: Certificates
) -> None:
    sink = open_sink(under_tls(certificates, answering(OK)))
    sender = open_sender(ca_file=certificates.ca_file)

    assert sender.post(f"https://127.0.0.1:{sink.port}/", BODY, {}).status_code == 200


def test_an_unknown_authority_is_refused(open_sink: OpenSink, sender: Sender, certificates: Certificates) -> None:
    sink = open_sink(under_tls(certificates, answering(OK)))
    answer = sender.post(f"https://127.0.0.1:{sink.port}/", BODY, {})

    assert (answer.status_code, answer.error_code) == (None, "tls_failed")
    assert "certificate" in (answer.error or "")
    assert sink.received == []


def test_a_certificate_of_another_name_is_refused(
    open_sink: OpenSink, open_sender: OpenSender, certificates: Certificates
) -> None:
    sink = open_sink(under_tls(certificates, answering(OK)))
    sender = open_sender(ca_file=certificates.ca_file, lookup=leading_to(sink.port))
    answer = sender.post("https://other.example/", BODY, {})

    assert answer.error_code == "tls_failed"
    assert "other.example" in (answer.error or "")
    assert sink.received == []


def test_a_plain_port_is_told_apart(open_sink: OpenSink, sender: Sender) -> None:
    def script(visitor: Visitor) -> None:
        visitor.sock.recv(1024)
        visitor.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    answer = sender.post(f"https://127.0.0.1:{open_sink(script).port}/", BODY, {})

    assert answer.error_code == "tls_failed"


def _hang(visitor: Visitor) -> None:
    visitor.hang()


def _drip_handshake(visitor: Visitor) -> None:
    visitor.sock.recv(1024)
    visitor.send(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03")  # a ServerHello of 16 KiB
    visitor.drip(itertools.repeat(b"\x00", 200))


@pytest.mark.parametrize("script", [_hang, _drip_handshake])
def test_no_handshake_outlives_the_deadline(open_sink: OpenSink, sender: Sender, script: Script) -> None:
    url = f"https://127.0.0.1:{open_sink(script).port}/"
    started_at = time.monotonic()
    answer = sender.post(url, BODY, {}, deadline_seconds=0.4)

    assert time.monotonic() - started_at <= 1.4
    assert answer.error_code == "timeout"


def test_a_handshake_may_take_longer_than_the_connect_time(
    open_sink: OpenSink, open_sender: OpenSender, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.1)
    secured = under_tls(certificates, answering(OK))

    def script(visitor: Visitor) -> None:
        visitor.sink.stopping.wait(0.2)
        secured(visitor)

    sink = open_sink(script)
    sender = open_sender(ca_file=certificates.ca_file)

    assert sender.post(f"https://127.0.0.1:{sink.port}/", BODY, {}).status_code == 200


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nX: "])
def test_no_drip_under_tls_outlives_the_deadline(
    open_sink: OpenSink, open_sender: OpenSender, certificates: Certificates, first: bytes
) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(first)
        visitor.drip(itertools.repeat(b"H", 200))

    sink = open_sink(under_tls(certificates, script))
    sender = open_sender(ca_file=certificates.ca_file)
    started_at = time.monotonic()
    answer = sender.post(f"https://127.0.0.1:{sink.port}/", BODY, {}, deadline_seconds=0.4)

    assert time.monotonic() - started_at <= 1.4
    assert answer.error_code == "timeout"


def test_a_flood_under_tls_is_cut_off(open_sink: OpenSink, open_sender: OpenSender, certificates: Certificates) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(b"HTTP/1.1 200 OK\r\n")
        visitor.flood((b"X: " + b"y" * 1000 + b"\r\n") * 64, at_most=50_000_000)

    sink = open_sink(under_tls(certificates, script))
    answer = open_sender(ca_file=certificates.ca_file).post(f"https://127.0.0.1:{sink.port}/", BODY, {})

    assert answer.error_code == "answer_too_large"


def test_a_stale_connection_under_tls_is_replaced(
    open_sink: OpenSink, open_sender: OpenSender, certificates: Certificates
) -> None:
    def script(visitor: Visitor) -> None:
        visitor.read_request()
        visitor.send(OK)
        if visitor.number == 1:
            visitor.sock.recv(1)
        else:
            visitor.hang()

    sink = open_sink(under_tls(certificates, script))
    sender = open_sender(ca_file=certificates.ca_file)
    url = f"https://127.0.0.1:{sink.port}/"

    assert [sender.post(url, BODY, {}).status_code for _ in range(2)] == [200, 200]
    assert sink.connections == 2


def test_certificates_are_read_once_for_all_connections(
    open_sink: OpenSink,
    open_sender: OpenSender,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(Path(certificates.ca_file).read_bytes())
    sink = open_sink(under_tls(certificates, answering(OK)))
    sender = open_sender(ca_file=str(ca_file))
    ca_file.unlink()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))

    assert sender.post(f"https://127.0.0.1:{sink.port}/", BODY, {}).status_code == 200
