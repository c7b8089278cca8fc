"""The embedded server's process without its confinement, so that ClickHouse's `url()` can read from the page server.

For the short-lived server of a benchmark only; the project's server is confined to its directory and cannot connect.
"""

from __future__ import annotations

import sys

from extract.clickhouse.embedded import process


def _skip_confinement(**_: object) -> bool:
    return False


if __name__ == "__main__":
    process.confine = _skip_confinement
    sys.exit(process.main(sys.argv[1:]))
