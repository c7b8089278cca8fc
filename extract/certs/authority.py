"""Create a certificate authority and sign certificates for the edge and for each role.

The subject of a role's certificate is only the role (`CN=loader`); the edge maps it to a ClickHouse user. Extended key
usage restricts a role's certificate to clients and the edge's to servers, so neither works in place of the other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANISATION = "deribit-tape"
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
CLOCK_SKEW = timedelta(minutes=5)
"""Certificates start this much in the past, so that a machine with a slow clock accepts a new one."""


@dataclass(frozen=True)
class Signed:
    """A certificate and its private key; `repr` omits the key."""

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
    """Create an authority for `environment`. Its name ends with its serial number, so a later one differs."""
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
    """Sign a client certificate with the subject `CN=role`."""
    return _leaf(authority, role, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)


def new_server(
    authority: Signed, hosts: Sequence[str], *, now: datetime | None = None, days: int = CERTIFICATE_DAYS
) -> Signed:
    """Sign a server certificate for `hosts`, DNS names or IP addresses."""
    alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    return _leaf(authority, hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, now, days, alternatives)


def server_names(certificate: x509.Certificate) -> list[str]:
    """Return the subject alternative names of a server certificate."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` issued and signed `certificate`."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (
        ValueError,
        TypeError,
        InvalidSignature,
        UnsupportedAlgorithm,
    ):  # another name, another kind of key, a wrong signature
        return False
    return True


def same_environment(issuer: x509.Name, authority: x509.Name) -> bool:
    """Whether two authorities belong to the same environment, so that one may have replaced the other."""
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
    # A common name has at most 64 characters; clients compare only the alternative names.
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
        # Clients reject a certificate once its authority has expired, so its own end must not be later.
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
    """Key usage: certificate signing for an authority, digital signatures (handshakes) for the others."""
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
