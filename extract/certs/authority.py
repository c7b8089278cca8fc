"""Keys and certificates: an authority signs the edge's own certificate and one for each role.

A role's certificate names nothing but the role (`CN=loader`), which is what the edge maps to a ClickHouse user. It is
good for clients alone, the edge's for servers alone: neither can stand in for the other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANISATION = "deribit-tape"
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
CLOCK_SKEW = timedelta(minutes=5)
"""A machine whose clock is a little behind takes a new certificate at once."""


@dataclass(frozen=True)
class Signed:
    """A certificate and its private key, which `repr` does not show."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"Signed({self.certificate.subject.rfc4514_string()})"

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_authority(environment: str, *, now: datetime | None = None, days: int = AUTHORITY_DAYS) -> Signed:
    """An authority of its own for `environment`; a later one has another number in its name."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, environment),
            x509.NameAttribute(
                NameOID.COMMON_NAME, f"{environment} authority {serial:x}"[: len(environment) + 19]
            ),
        ]
    )
    builder = _builder(name, name, key, serial, now, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Signed(builder.add_extension(_usage(signs=True), critical=True).sign(key, hashes.SHA256()), key)


def new_client(
    authority: Signed, role: str, *, now: datetime | None = None, days: int = CERTIFICATE_DAYS
) -> Signed:
    """A client certificate that names `role`."""
    return _leaf(authority, role, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)


def new_server(
    authority: Signed, hosts: Sequence[str], *, now: datetime | None = None, days: int = CERTIFICATE_DAYS
) -> Signed:
    """A server certificate for `hosts`: names, and addresses where a user types those."""
    alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    return _leaf(authority, hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, now, days, alternatives)


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """What a server certificate was made for."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority`'s key signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (
        Exception
    ):  # a wrong name, another kind of key, a signature that does not fit: none of them signed it
        return False
    return True


def same_environment(issuer: x509.Name, authority: x509.Name) -> bool:
    """Whether two authorities are of one environment of ours: the later took the place of the earlier."""
    parts = (NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
    values = [[name.get_attributes_for_oid(part) for part in parts] for name in (issuer, authority)]
    return all(values[0]) and values[0] == values[1]


def _leaf(
    authority: Signed,
    common_name: str,
    purpose: x509.ObjectIdentifier,
    now: datetime | None,
    days: int,
    alternatives: x509.SubjectAlternativeName | None = None,
) -> Signed:
    key = ec.generate_private_key(ec.SECP256R1())
    # A name may have 64 characters, a host more: clients look at the alternatives alone.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    issuer = authority.certificate
    builder = _builder(subject, issuer.subject, key, x509.random_serial_number(), now, days, issuer)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
    )
    if alternatives:
        builder = builder.add_extension(alternatives, critical=False)
    return Signed(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    serial: int,
    now: datetime | None,
    days: int,
    authority: x509.Certificate | None = None,
) -> x509.CertificateBuilder:
    now = now or datetime.now(UTC)
    end = now + timedelta(days=days)
    if authority:
        # What outlives its authority is refused all the same, and would be told to be good for longer than it is.
        end = min(end, authority.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(min(now, end) - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    """An authority signs certificates, all others signatures of handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
