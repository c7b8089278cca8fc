"""`tape backup`: write an encrypted backup of everything that was loaded."""

from __future__ import annotations

from pathlib import Path

import click

from extract.cli.options import json_option, key_file_option, parsed
from extract.cli.output import echo, plural, print_json


def _parse_keep(text: str, option: str) -> object:
    from extract.backup.prune import parse_keep

    return parse_keep(text, option)


@click.command()
@click.option(
    "--to",
    "place",
    metavar="FOLDER|S3",
    required=True,
    envvar="TAPE_BACKUP_TO",
    help="Folder, or s3://bucket/prefix.",
)
@key_file_option
@click.option(
    "--keep",
    metavar="RULE",
    callback=parsed(_parse_keep),
    help="Retain the newest backup of so many days, weeks, months and years, and delete the others.",
)
@json_option
def backup(place: str, key_file: Path, keep: dict[str, int] | None, as_json: bool) -> None:
    """Write an encrypted backup of the raw database, dlt's state included.

    A month that has not changed since an earlier backup in the same place is not written again. The backup has the load
    packages that are finished when it begins, so runs may load meanwhile. Every file that is written is read back and
    checked; the manifest comes last, so an interrupted backup does not count, and the next one uses its files.
    The models are not in it: `dbt build` makes them from the raw tables.

    The key is a file of 64 hexadecimal digits: openssl rand -hex 32 > FILE. Store a copy of it in another place than the
    backups: without it nothing can be restored.

    Exit code: 0 done and proven, 1 an earlier backup is damaged, 2 nothing is loaded yet, 3 the key is missing or not
    that of the earlier backups, 4 the database or the storage failed; the same command resumes.

    Example: tape backup --to s3://my-bucket/tape --key-file ~/tape-backup.key --keep daily=7,weekly=4,monthly=12
    """
    from extract.backup.backup import back_up
    from extract.cli.progress import WorkProgress

    with WorkProgress() as progress:
        report = back_up(place, key_file, keep=keep, listener=progress)
    if as_json:
        print_json(report.to_json())
        return
    echo(
        f"Backup {report.name} in {report.location}: {report.rows:,} rows in {plural(report.months, 'month')}, "
        f"{report.bytes:,} bytes."
    )
    echo(
        f"{report.written:,} of {plural(report.files, 'file')} written and read back ({report.written_bytes:,} bytes), "
        f"the others are those of earlier backups; {report.seconds:.1f} s."
    )
    if report.dropped:
        echo(
            f"Not in it: {plural(len(report.dropped), 'month')} that `tape retention` dropped from the raw trades, "
            "which only the models may have."
        )
    if report.pruned:
        echo(
            f"Deleted {plural(len(report.pruned), 'backup')} that --keep does not retain: {', '.join(report.pruned)}."
        )
