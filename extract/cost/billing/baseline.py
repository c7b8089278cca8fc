"""What some days cost in both clouds together; what could not be read is unknown, and never 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

from extract.cost.billing import aws, clickhouse_cloud
from extract.cost.billing.charges import Charge, Days, Line, lines
from extract.cost.billing.money import in_cents, split_cents, total
from extract.cost.plan.figures import prices
from extract.errors import TapeError

CLOUDS = (clickhouse_cloud.CLOUD, aws.CLOUD)


@dataclass
class Baseline:
    """`lines` of the clouds that could be read; `unread` says why another could not."""

    days: Days
    lines: list[Line] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    unread: dict[str, TapeError] = field(default_factory=dict)
    requests: int = 0
    """Of Cost Explorer, each of which is charged."""

    def total_of(self, cloud: str) -> Decimal | None:
        """To the cent, as an invoice is; None where it is unknown."""
        if cloud in self.unread:
            return None
        return in_cents(total(line.usd for line in self.lines if line.cloud == cloud))

    @property
    def total(self) -> Decimal | None:
        """Of all clouds that were asked; None where one of them is unknown."""
        if self.unread:
            return None
        return total(self.total_of(cloud) or Decimal(0) for cloud in self.read)

    def shown(self, cloud: str) -> list[tuple[Line, Decimal]]:
        """The lines of a cloud in whole cents, so that they add up to its total."""
        found = [line for line in self.lines if line.cloud == cloud]
        return list(zip(found, split_cents([line.usd for line in found]), strict=True))

    @property
    def open_usd(self) -> Decimal:
        """What may still change of what was read."""
        return total(line.open_usd for line in self.lines)

    def notes(self, today: date) -> list[str]:
        """What a reader must know of the figures, a sentence each."""
        found = []
        if self.days.last >= today:
            found.append(f"{today} is not over: its charges are not all there yet.")
        if self.open_usd:
            found.append(
                f"{in_cents(self.open_usd):,} USD of it may still change: the clouds have not closed those days."
            )
        if self.requests:
            price = prices()["cost_explorer"]
            found.append(
                f"Cost Explorer was asked {self.requests} times, for {self.requests * price.amount} USD on the next bill "
                f"({price.said})."
            )
        return found + [f"The bill of {cloud} is unknown: {error}" for cloud, error in self.unread.items()]


def baseline(
    days: Days, clouds: tuple[str, ...] = CLOUDS, *, by_component: bool = False, project: bool = False
) -> Baseline:
    """Asks each of `clouds`. `by_component`, `project`: AWS by its tag `component`; only what bears the project's tag.

    Raises the cloud's own error where only one was asked; of several, what cannot be read is kept in `unread`.
    """
    found = Baseline(days)
    charges: list[Charge] = []

    def of_aws() -> list[Charge]:
        account = aws.Aws()
        try:
            by = aws.BY_COMPONENT if by_component else aws.BY_USAGE
            return account.bill(days, by, aws.PROJECT_TAG if project else None).charges
        finally:
            found.requests = account.requests

    def of_clickhouse() -> list[Charge]:
        with clickhouse_cloud.UsageCostClient(clickhouse_cloud.cloud_api_settings()) as client:
            return [charge for record in client.usage(days) for charge in record.charges()]

    readers: dict[str, Callable[[], list[Charge]]] = {
        clickhouse_cloud.CLOUD: of_clickhouse,
        aws.CLOUD: of_aws,
    }
    for cloud in clouds:
        try:
            charges += readers[cloud]()
            found.read.append(cloud)
        except TapeError as error:
            if len(clouds) == 1:
                raise
            found.unread[cloud] = error
    found.lines = lines(charges)
    return found
