"""Certificates for tests, which vouch for themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(
    folder: Path,
    *names: str,
    days: tuple[int, int] = (-1, 1),
    address: str = "127.0.0.1",
    authority: Path | None = None,
) -> Path:
    """Write `cert.pem`, which vouches for itself, and `key.pem` into a new folder.

    Args:
        folder: to make.
        names: of the host; by default localhost.
        days: from when to when it is valid, from today.
        address: of the host; empty for none.
        authority: folder of one that vouches for it in its place, and is not named by its key.
    """
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    signer = key
    if authority:
        signer = serialization.load_pem_private_key((authority / "key.pem").read_bytes(), None)
    subject, issuer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.name)])
        for path in (folder, authority or folder)
    )
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names or ("localhost",)]
    if address:
        alternatives.append(x509.IPAddress(ip_address(address)))
    begin, end = (datetime.now(UTC) + timedelta(days=day) for day in days)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


def server_options(folder: Path, *, of_clients: str = "no") -> list[str]:
    """Options of a server that shows a certificate; `of_clients`: whether it wants theirs."""
    return [
        *("--tls-cert-file", f"{folder}/cert.pem", "--tls-key-file", f"{folder}/key.pem"),
        *("--tls-ca-cert-file", f"{folder}/cert.pem", "--tls-auth-clients", of_clients),
    ]
