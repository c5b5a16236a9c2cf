"""The repository behind TLS: what the system trusts counts, or what SSL_CERT_FILE names."""

import re
import ssl
import threading
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from trust_parts import BLOB, CONTENT, Server, cut, refused

from edgeinc.update.fetch import Source


def certificate(folder, *, days=(-1, 1), address="127.0.0.1"):
    """A certificate that signs itself, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "updates")])
    now = datetime.now(timezone.utc)
    content = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "cert.pem").write_bytes(content.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def behind_tls(device, published):
    """`behind_tls(certificate, key)` puts the device before a server with that certificate."""
    running = []

    def start(file, key):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file, key)
        server = Server()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.folder = published.folder
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        device.source = Source.at(server.url.replace("http:", "https:"))
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def test_files_come_over_tls_and_are_resumed(device, behind_tls, tmp_path, monkeypatch):
    file, key = certificate(tmp_path / "tls")
    server = behind_tls(file, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    server.fault("full.zst", cut(50_000), times=1)
    assert device.take() == CONTENT[BLOB]
    assert len([path for path in server.asked if "full.zst" in path]) == 2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "self-signed"),
        ({"days": (-2, -1)}, "expired"),
        ({"address": "127.0.0.2"}, "IP address mismatch|doesn't match|not valid for"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_refused(
    device, behind_tls, tmp_path, monkeypatch, wrong, says
):
    """Unknown, expired, or of another host; nothing was fetched."""
    file, key = certificate(tmp_path / "tls", **wrong)
    server = behind_tls(file, key)
    if wrong:
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with refused("NETWORK") as caught:
        device.take()
    assert "certificate" in caught.value.message.lower()
    assert re.search(says, caught.value.message), caught.value.message
    assert server.asked == []
