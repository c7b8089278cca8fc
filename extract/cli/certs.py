"""`tape certs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from extract.certs import ROLES, SERVER

if TYPE_CHECKING:
    from extract.certs.expiry import CertificateStatus
    from extract.certs.store import CertificateStore

HEADER = ("name", "subject", "not after", "days", "where")
ROLES_AND_SERVER = (*ROLES, SERVER)
YEAR = 365

_environment = click.option(
    "--environment", "-e", default="production", show_default=True, help="Whose certificates; each has an authority."
)  # fmt: skip
_days = click.option(
    "--days", default=YEAR, show_default=True, type=click.IntRange(1, 825), help="Valid for so long."
)


@click.group()
def certs() -> None:
    """Certificates of the edge before your own ClickHouse: make, renew, rotate, revoke, watch.

    They are kept in .tape/certs/ENVIRONMENT, private keys readable by you alone. How the edge and the clients get them
    stands in deploy/edge/README.md.

    \b
    Example: tape certs init --host edge.example.com
             tape certs check
    """


@certs.command()
@click.option(
    "--host", "hosts", multiple=True, required=True, help="Name or address of the edge; repeatable."
)
@_environment
@_days
def init(hosts: tuple[str, ...], environment: str, days: int) -> None:
    """Make an authority, the edge's own certificate, and one for each role.

    Example: tape certs init --host edge.example.com -e production
    """
    store = _store(environment)
    store.init(hosts, days)
    click.echo(f"{environment} has an authority, and certificates for {', '.join(ROLES_AND_SERVER)}.")
    _say_where(store)


@certs.command()
@click.argument("name", type=click.Choice(ROLES_AND_SERVER))
@click.option("--host", "hosts", multiple=True, help="For server: its names from now on; default: as before.")
@_environment
@_days
def issue(name: str, hosts: tuple[str, ...], environment: str, days: int) -> None:
    """Renew one certificate; the one before stays valid until its end, so there is no gap.

    Example: tape certs issue loader
    """
    store = _store(environment)
    store.issue(name, days, hosts)
    click.echo(f"New: {store.path(f'{name}.pem')} and its key; the one before is valid until its own end.")
    click.echo("Copy ca.pem, ca-before.pem, server.pem, server.key to the edge and reload it." if name == "server"
               else f"Copy both files to the machine of the {name}; the edge needs nothing.")  # fmt: skip


@certs.command()
@_environment
@_days
def rotate(environment: str, days: int) -> None:
    """Begin to change the authority: a new one beside the one before, and new certificates for every role.

    Both authorities are trusted until `tape certs revoke`, so old and new certificates are valid together.

    Example: tape certs rotate
    """
    store = _store(environment)
    store.rotate(days)
    click.echo(f"{environment} trusts two authorities now. Next, in this order:")
    click.echo("  1. copy ca.pem and ca-before.pem to the edge and reload it")
    click.echo("  2. copy trusted.pem, ROLE.pem and ROLE.key to every client")
    click.echo(f"  3. tape certs revoke -e {environment}")
    _say_where(store)


@certs.command()
@click.option(
    "--now", is_flag=True, help="A key was stolen: a new authority at once, everything signed anew."
)
@_environment
@_days
def revoke(now: bool, environment: str, days: int) -> None:
    """Stop trusting the authority before: all that it signed is refused from the edge's next reload on.

    Ends what `tape certs rotate` began. With --now there is a gap: every client is refused until it has its new files.

    Example: tape certs revoke --now
    """
    store = _store(environment)
    store.revoke(now=now, days=days)
    click.echo(f"{environment} trusts one authority, and the server has a new certificate under it.")
    click.echo(
        "Copy ca.pem, ca-before.pem, server.pem, server.key to the edge and reload it: only then it counts."
    )
    if now:
        click.echo("Then copy trusted.pem, ROLE.pem and ROLE.key to every client.")
    _say_where(store)


@certs.command("list")
@click.option("--environment", "-e", help="One environment; default: all.")
@click.option("--json", "as_json", is_flag=True, help="A list for machines.")
def list_(environment: str | None, as_json: bool) -> None:
    """Show the certificates that are kept here, with the days that they have left.

    Example: tape certs list --json
    """
    from extract.certs.expiry import MIN_DAYS_LEFT, stored_certificates

    _show(list(stored_certificates(environment)), MIN_DAYS_LEFT, as_json)


@certs.command()
@click.option(
    "--days", default=30, show_default=True, type=click.IntRange(0), help="The least days to be left."
)
@click.option("--environment", "-e", help="Of those kept here, one environment; default: all.")
@click.option("--server", help="HOST:PORT to look at, instead of CLICKHOUSE_CLOUD_HOST and _PORT.")
@click.option("--json", "as_json", is_flag=True, help="A list for machines, with the reason of each alarm.")
def check(days: int, environment: str | None, server: str | None, as_json: bool) -> int:
    """Say whether any certificate needs you: those kept here, those that CLICKHOUSE_CLOUD_* names, the server's own.

    One that cannot be read, or whose server does not answer, is an alarm too.

    Exit code: 0 none, 1 an alarm, 2 there is nothing to check.

    Example: tape certs check --days 14 --server edge.example.com:8443
    """
    from extract.certs.expiry import configured_certificates, server_certificate, stored_certificates
    from extract.clickhouse.settings import cloud_address_if_set
    from extract.errors import CannotTellError

    lives = [*stored_certificates(environment), *configured_certificates(cloud_address_if_set())]
    if server:
        lives.append(server_certificate(*_address(server)))
    if not lives:
        raise CannotTellError(
            "There is no certificate to check; set CLICKHOUSE_CLOUD_HOST, or make some: tape certs init --host NAME"
        )
    _show(lives, days, as_json)
    alarms = [each for each in lives if each.is_alarm(days)]
    for each in alarms:
        reason = each.problem or f"It has {each.days_left} days left, fewer than {days}."
        click.echo(f"Alarm: {each.name} ({each.source}): {reason}", err=True)
    return int(bool(alarms))


def _store(environment: str) -> CertificateStore:
    from extract.certs.store import CertificateStore

    return CertificateStore(environment)


def _say_where(store: CertificateStore) -> None:
    click.echo(
        f"The files are in {store.directory}; ca.key stays there. How to bring the others out: deploy/edge/README.md"
    )


def _address(text: str) -> tuple[str, int]:
    from extract.errors import UsageError

    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f"--server {text!r} is not an address; expected HOST:PORT like edge.example.com:8443"
        )
    return host.strip("[]"), int(port)


def _show(lives: list[CertificateStatus], least_days: int, as_json: bool) -> None:
    from extract.cli.gaps import json_lines
    from extract.cli.output import format_table

    if as_json:
        click.echo(json_lines([each.to_json(least_days) for each in lives]))
        return
    rows = [
        (
            each.name,
            each.subject,
            f"{each.not_after:%Y-%m-%d}" if each.not_after else None,
            each.days_left,
            each.source,
        )
        for each in lives
    ]
    for line in format_table(HEADER, rows):
        click.echo(line)
