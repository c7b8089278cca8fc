"""The embedded server's process without its confinement: ClickHouse's own row of the bench reads from the page server.

For the bench's own, short-lived server only; the project's is confined to its directory and may connect to nobody.
"""

from __future__ import annotations

import sys

from extract.clickhouse.embedded import process


def _confine_nothing(**_: object) -> bool:
    return False


if __name__ == "__main__":
    process.confine = _confine_nothing
    sys.exit(process.main(sys.argv[1:]))
