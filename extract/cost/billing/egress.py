"""Data that left the clouds, measured or derived from charges, compared with a threshold. 1 GB is 10^9 bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from extract.cost.billing import aws, clickhouse_cloud
from extract.cost.billing.charges import Days, read_clouds
from extract.cost.billing.money import total
from extract.cost.plan.inputs import prices
from extract.errors import CannotTellError

GB = 10**9
INTERNET = "publicDataTransferCHC"
PRICED = {INTERNET: "clickhouse_egress", "interRegionTier1DataTransferCHC": "clickhouse_egress_tier1"}
"""Prices by which charges are divided to get GB."""


@dataclass
class Egress:
    """GB by source, None if a source cannot be read; `unread` gives the reasons."""

    days: Days
    threshold_gb: Decimal
    gb: dict[str, Decimal | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def known_gb(self) -> Decimal:
        return total(gb for gb in self.gb.values() if gb is not None)

    @property
    def is_over(self) -> bool:
        """Whether the known GB exceed the threshold."""
        return self.known_gb > self.threshold_gb

    @property
    def exit_code(self) -> int:
        """0: not above the threshold; 1: above; 2: not above, but some sources are unknown."""
        if self.is_over:
            return 1
        return CannotTellError.exit_code if self.unread else 0


def egress(days: Days, threshold_gb: Decimal, clouds: tuple[str, ...]) -> Egress:
    """Read the egress of `clouds`. Raises the error of a cloud if it is the only one."""
    result = Egress(days, threshold_gb)
    readers = {
        clickhouse_cloud.CLOUD: lambda: _add_clickhouse(result),
        aws.CLOUD: lambda: _add_aws(result),
    }
    for cloud, error in read_clouds(clouds, readers)[1].items():
        result.gb[cloud] = None
        result.unread.append(f"The egress of {cloud} is unknown: {error}")
    return result


def _add_aws(result: Egress) -> None:
    account = aws.Aws()
    result.gb[f"aws, EC2 in {account.region}"] = Decimal(account.network_out(result.days)) / GB
    result.notes.append(
        "EC2's NetworkOut counts all bytes that leave an instance, within the region too: an upper bound of what is charged."
    )


def _add_clickhouse(result: Egress) -> None:
    """Add the GB that were charged; a charge without a known price is an unknown number of GB."""
    records = clickhouse_cloud.fetch_usage(result.days)
    metrics = {name for record in records for name in record.metrics if "DataTransfer" in name}
    for metric in sorted(metrics | {INTERNET}):
        charged = total(record.metrics.get(metric) or Decimal(0) for record in records)
        source = f"clickhouse, {clickhouse_cloud.kind_of(metric)}"
        if price := prices().get(PRICED.get(metric, "")):
            result.gb[source] = charged / price.value
            if charged:
                result.notes.append(f"{source}: {charged} USD at {price.value} USD per GB ({price.source}).")
        elif charged:
            result.gb[source] = None
            result.unread.append(
                f"{source}: {charged} USD were charged, for which prices.toml has no price per GB."
            )
