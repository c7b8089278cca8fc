"""A trade that both sides brought: does its newest version read the same?"""

from __future__ import annotations

from collections.abc import Collection

from extract.push.database import PushDatabase
from extract.push.partitions import Part

ROWS_AT_ONCE = 1_000_000


def restated(local: PushDatabase, cloud: PushDatabase, part: Part, own: Collection[str], rows: int) -> int:
    """Trades of a month whose newest version in cloud, which a package of `own` brought, is another than in local.

    Asked in slices of keys, so that memory stays flat whatever the month holds.
    """
    slices = -(-rows // ROWS_AT_ONCE)
    return sum(_in_slice(local, cloud, part, own, slices, each) for each in range(slices))


def _in_slice(
    local: PushDatabase, cloud: PushDatabase, part: Part, own: Collection[str], slices: int, each: int
) -> int:
    theirs = {
        key: content
        for key, (content, load_id) in _newest(cloud, part, slices, each).items()
        if load_id in own
    }
    if not theirs:
        return 0
    mine = _newest(local, part, slices, each)
    return sum(mine[key][0] != content for key, content in theirs.items() if key in mine)


def _newest(side: PushDatabase, part: Part, slices: int, each: int) -> dict[int, tuple[int, str]]:
    """(hash of the content, load package) of the newest version of each trade, by the hash of its key."""
    said = ", ".join(name for name in part.table.names if name != "_dlt_load_id")
    sql = f"""
        select {part.table.key_hash} as key, argMax(
            (cityHash64(tuple({said})), toString(_dlt_load_id)), toString(_dlt_load_id)
        ) as newest
        from {part.source} and key % {slices} = {each}
        group by key"""
    return dict(side.rows(sql))
