"""`tape restore`: restore a backup and prove it."""

from __future__ import annotations

from pathlib import Path

import click

from extract.cli.options import json_option, key_file_option
from extract.cli.output import echo, plural, print_json


@click.command()
@click.option(
    "--from",
    "place",
    metavar="FOLDER|S3",
    required=True,
    envvar="TAPE_BACKUP_TO",
    help="Where `tape backup` wrote to.",
)
@key_file_option
@click.option(
    "--at",
    metavar="T",
    help="Restore the newest backup that began by this time: 2026-01-31 or 7d; default: the newest.",
)
@click.option(
    "--verify", is_flag=True, help="Restore into a server that is started for it, and deleted afterwards."
)
@json_option
def restore(place: str, key_file: Path, at: str | None, verify: bool, as_json: bool) -> None:
    """Restore a backup into an empty server, and prove that it is equal.

    First all files are checked; nothing is written if one is missing or damaged. Each month is then compared with the
    backup: number of rows, keys and content, as `tape push` compares two databases. A load package counts as loaded only
    after that. A restore that was interrupted is resumed by the same command. The next `dlt pipeline run` continues where
    the backup ends, and `dbt build` makes the models.

    With --verify the server of CLICKHOUSE_MODE is not touched: the backup is restored into a temporary one below TAPE_DIR,
    which needs as much space as the raw tables.

    Exit code: 0 restored and equal, 1 the backup is damaged or the result differs, 2 there is no backup, 3 the key is not
    that of the backup, or the server is not empty, 4 the database or the storage failed.

    Example: tape restore --from s3://my-bucket/tape --key-file ~/tape-backup.key
    """
    import time

    from extract.backup.restore import restore as restore_backup
    from extract.cli.progress import WorkProgress
    from extract.times import iso, parse_time_ms

    at_ms = parse_time_ms(at, "--at", int(time.time() * 1000)) if at else None
    with WorkProgress() as progress:
        report = restore_backup(place, key_file, at_ms=at_ms, verify=verify, listener=progress)
    if as_json:
        print_json(report.to_json())
        return
    began = iso(report.created_at.timestamp() * 1000)
    trades, months = plural(sum(report.trades.values()), "trade"), plural(len(report.trades), "month")
    rate = f"{report.seconds:.1f} s, {report.restored / max(report.seconds, 0.001):,.0f} rows/s"
    echo(
        f"Backup {report.name} of {began}: {plural(report.files, 'file')}, {report.bytes:,} bytes, all as written."
    )
    if verify:
        echo(f"It can be restored: a temporary server was equal to it, {trades} in {months} ({rate}).")
    elif report.restored:
        echo(f"Restored and proven equal: {trades} in {months}, {report.rows:,} rows ({rate}).")
        echo(
            "Next: dlt pipeline run, which continues where the backup ends, then dbt build, which makes the models."
        )
    else:
        echo(f"The server has exactly this backup already: {trades} in {months}.")
