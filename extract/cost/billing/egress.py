"""How much data left, by what both clouds measure or charge, held against a threshold. 1 GB is 10^9 bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from extract.cost.billing import aws, clickhouse_cloud
from extract.cost.billing.charges import Days
from extract.cost.billing.money import total
from extract.cost.plan.figures import Figure, prices
from extract.errors import CannotTellError, TapeError

GB = 10**9
PRICED = {
    "publicDataTransferCHC": "clickhouse_egress",
    "interRegionTier1DataTransferCHC": "clickhouse_egress_tier1",
}
"""The charges for which a price is known, which they are divided by."""


@dataclass
class Egress:
    """GB by source, None where a source could not be read; `unread` says why."""

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
        """What is known suffices for an alarm."""
        return self.known_gb > self.threshold_gb

    @property
    def exit_code(self) -> int:
        """0 below, 1 over, 2 below as far as it could be read."""
        if self.is_over:
            return 1
        return CannotTellError.exit_code if self.unread else 0


def egress(days: Days, threshold_gb: Decimal, clouds: tuple[str, ...]) -> Egress:
    """Asks each of `clouds`. Raises the cloud's own error where only one was asked."""
    found = Egress(days, threshold_gb)
    readers: dict[str, Callable[[Egress], None]] = {
        clickhouse_cloud.CLOUD: _of_clickhouse,
        aws.CLOUD: _of_aws,
    }
    for cloud in clouds:
        try:
            readers[cloud](found)
        except TapeError as error:
            if len(clouds) == 1:
                raise
            found.gb[cloud] = None
            found.unread.append(f"What left {cloud} is unknown: {error}")
    return found


def _of_aws(found: Egress) -> None:
    account = aws.Aws()
    found.gb[f"aws, EC2 in {account.region}"] = Decimal(account.network_out(found.days)) / GB
    found.notes.append(
        "EC2's NetworkOut counts whatever leaves an instance, within the region too: it is the most that can be charged."
    )


def _of_clickhouse(found: Egress) -> None:
    with clickhouse_cloud.UsageCostClient(clickhouse_cloud.cloud_api_settings()) as client:
        records = client.usage(found.days)
    names = {name for record in records for name in record.metrics if "DataTransfer" in name}
    for name in sorted(names | {"publicDataTransferCHC"}):
        charged = total(record.metrics.get(name) or Decimal(0) for record in records)
        _charged(
            found,
            f"clickhouse, {clickhouse_cloud.kind_of(name)}",
            charged,
            prices().get(PRICED.get(name, "")),
        )


def _charged(found: Egress, source: str, charged: Decimal, price: Figure | None) -> None:
    """GB by what was charged for them; a charge without a known price is an unknown number of GB."""
    if price:
        found.gb[source] = charged / price.amount
        if charged:
            found.notes.append(f"{source}: {charged} USD at {price.amount} USD per GB ({price.said}).")
    elif charged:
        found.gb[source] = None
        found.unread.append(
            f"{source}: {charged} USD were charged, for which prices.toml has no price per GB."
        )
