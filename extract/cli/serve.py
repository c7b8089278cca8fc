"""`tape serve`: the HTTP API and the page."""

from __future__ import annotations

from pathlib import Path

import click

from extract.cli.options import NumberRange
from extract.cli.output import echo


@click.command()
@click.option(
    "--port", default=8124, type=click.IntRange(0, 65535), help="Port to listen on; 0: any free one."
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Names and keys, one of each a line; requests need one of the keys.",
)
@click.option(
    "--rate",
    default=50.0,
    type=NumberRange(0.01, 1_000_000),
    help="Requests per second that each key may send.",
)
def serve(port: int, host: str, key_file: Path | None, rate: float) -> None:
    """Serve the HTTP API and the page, read only, until SIGTERM or Ctrl-C.

    It logs in as the role reader: with CLICKHOUSE_READER_PASSWORD, or at the embedded ClickHouse with the password that
    `tape up` created. On loopback no key is needed. On another address --key-file is required, and the server belongs
    behind TLS: see deploy/edge. Prints `ready URL` once it answers.

    Example: tape serve --port 8124
    """
    from extract.clickhouse.settings import READER, reader_settings
    from extract.serve.server import serve as serve_api

    settings = reader_settings()
    if settings.user != READER and not settings.client_cert:
        echo(
            f"Logging in as {settings.user}, not as the role reader: set CLICKHOUSE_READER_PASSWORD.",
            err=True,
        )
    serve_api(
        settings,
        host=host,
        port=port,
        key_file=key_file,
        rate=rate,
        on_ready=lambda url: echo(f"ready {url}"),
    )
