"""`python -m extract.sandbox`: the same as `tape sandbox`."""

from __future__ import annotations

import sys

import click

from extract.errors import TapeError, UsageError
from extract.sandbox.command import sandbox


def main() -> int:
    try:
        sandbox.main(prog_name="tape sandbox", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except TapeError as error:
        click.echo(f"tape sandbox: {error}", err=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
