"""`tape certs`: certificates of the edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from extract.certs import ROLES, SERVER
from extract.cli.options import Command, days_option, json_option
from extract.cli.output import echo, print_json_lines, print_table
from extract.errors import CannotTellError, UsageError

if TYPE_CHECKING:
    from extract.certs.expiry import CertificateStatus
    from extract.certs.store import CertificateStore

HEADER = ("name", "subject", "not after", "days", "source")
NAMES = (*ROLES, SERVER)

_one_environment = click.option("--environment", "-e", help="One environment; default: all.")


def _open_store(ctx: click.Context, param: click.Parameter, environment: str) -> CertificateStore:
    from extract.certs.store import CertificateStore

    return CertificateStore(environment)


def authority_options(command: Command) -> Command:
    """--environment, as the store of its certificates, and --days."""
    text = "Environment of the certificates; each has its authority."
    store = click.option(
        "--environment", "-e", "store", default="production", callback=_open_store, help=text
    )
    return store(days_option(365, 825, "Days of validity.")(command))


@click.group()
def certs() -> None:
    """Create, renew, rotate, revoke and check certificates.

    They are for the edge in front of your own ClickHouse, and are stored in .tape/certs/ENVIRONMENT, private keys
    readable only by you. deploy/edge/README.md describes how to distribute them.

    \b
    Example: tape certs init --host edge.example.com
             tape certs check
    """


@certs.command()
@click.option(
    "--host", "hosts", multiple=True, required=True, help="Name or address of the edge; repeatable."
)
@authority_options
def init(hosts: tuple[str, ...], store: CertificateStore, days: int) -> None:
    """Create an authority, the certificate of the edge, and one for each role.

    Example: tape certs init --host edge.example.com -e production
    """
    store.init(hosts, days)
    echo(f"{store.environment} has an authority, and certificates for {', '.join(NAMES)}.")
    _print_location(store)


@certs.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option("--host", "hosts", multiple=True, help="For server: its new names; default: the current ones.")
@authority_options
def issue(name: str, hosts: tuple[str, ...], store: CertificateStore, days: int) -> None:
    """Renew one certificate. The previous one stays valid until it expires, so there is no interruption.

    Example: tape certs issue loader
    """
    store.issue(name, days, hosts)
    echo(f"New: {store.path(f'{name}.pem')} and its key; the previous one is valid until it expires.")
    echo("Copy ca.pem, ca-before.pem, server.pem, server.key to the edge and reload it." if name == "server"
         else f"Copy both files to the machine of the {name}; the edge needs no change.")  # fmt: skip


@certs.command()
@authority_options
def rotate(store: CertificateStore, days: int) -> None:
    """Start to replace the authority: create a new one, and new certificates for every role.

    Both authorities are trusted until `tape certs revoke`, so old and new certificates are valid together.

    Example: tape certs rotate
    """
    store.rotate(days)
    echo(f"{store.environment} trusts two authorities now. Next, in this order:")
    echo("  1. copy ca.pem and ca-before.pem to the edge and reload it")
    echo("  2. copy trusted.pem, ROLE.pem and ROLE.key to every client")
    echo(f"  3. tape certs revoke -e {store.environment}")
    _print_location(store)


@certs.command()
@click.option(
    "--now", is_flag=True, help="A key was stolen: replace the authority at once, and sign everything anew."
)
@authority_options
def revoke(now: bool, store: CertificateStore, days: int) -> None:
    """Stop trusting the previous authority: everything it signed is refused from the next reload of the edge on.

    Completes `tape certs rotate`. With --now every client is refused until it has its new files.

    Example: tape certs revoke --now
    """
    store.revoke(now=now, days=days)
    echo(f"{store.environment} trusts one authority, and the server has a new certificate under it.")
    echo(
        "Copy ca.pem, ca-before.pem, server.pem, server.key to the edge and reload it: it takes effect then."
    )
    if now:
        echo("Then copy trusted.pem, ROLE.pem and ROLE.key to every client.")
    _print_location(store)


@certs.command("list")
@_one_environment
@json_option
def list_(environment: str | None, as_json: bool) -> None:
    """Show the stored certificates and the days until they expire.

    Example: tape certs list --json
    """
    from extract.certs.expiry import MIN_DAYS_LEFT, stored_certificates

    _print_certificates(list(stored_certificates(environment)), MIN_DAYS_LEFT, as_json)


@certs.command()
@click.option("--days", default=30, type=click.IntRange(0, 36_500), help="Alarm if fewer days are left.")
@_one_environment
@click.option("--server", help="HOST:PORT to connect to, in addition to CLICKHOUSE_CLOUD_HOST and _PORT.")
@json_option
def check(days: int, environment: str | None, server: str | None, as_json: bool) -> int:
    """Check the stored certificates, those that CLICKHOUSE_CLOUD_* names, and the server's own.

    A certificate that cannot be read, or whose server does not answer, is an alarm too.

    Exit code: 0 no alarm, 1 an alarm, 2 there is nothing to check.

    Example: tape certs check --days 14 --server edge.example.com:8443
    """
    from extract.certs.expiry import (
        configured_certificates,
        server_certificate,
        stored_certificates,
        trusted_files,
    )
    from extract.clickhouse.settings import cloud_address_if_set

    certificates = [*stored_certificates(environment), *configured_certificates(cloud_address_if_set())]
    if server:
        certificates.append(server_certificate(*_address(server), authorities=trusted_files(environment)))
    if not certificates:
        raise CannotTellError(
            "There is no certificate to check; set CLICKHOUSE_CLOUD_HOST, or create some: tape certs init --host NAME"
        )
    _print_certificates(certificates, days, as_json)
    alarms = [each for each in certificates if each.is_alarm(days)]
    for each in alarms:
        reason = each.problem or f"It has {each.days_left} days left, fewer than {days}."
        echo(f"Alarm: {each.name} ({each.source}): {reason}", err=True)
    return int(bool(alarms))


def _print_location(store: CertificateStore) -> None:
    echo(
        f"The files are in {store.directory}; ca.key stays there. How to distribute the others: deploy/edge/README.md"
    )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f"--server {text!r} is not an address; expected HOST:PORT like edge.example.com:8443"
        )
    return host.strip("[]"), int(port)


def _print_certificates(certificates: list[CertificateStatus], least_days: int, as_json: bool) -> None:
    if as_json:
        print_json_lines(each.to_json(least_days) for each in certificates)
        return
    print_table(HEADER, [(c.name, c.subject, f"{c.not_after:%F}" if c.not_after else None, c.days_left, c.source)
                         for c in certificates])  # fmt: skip
