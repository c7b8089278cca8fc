"""Total charges of both clouds over some days. A bill that cannot be read is unknown, never 0."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from extract.cost.billing import aws, clickhouse_cloud
from extract.cost.billing.charges import Charge, Days, group_charges, read_clouds
from extract.cost.billing.money import in_cents, split_cents, total
from extract.cost.plan.inputs import prices
from extract.errors import TapeError

CLOUDS = (clickhouse_cloud.CLOUD, aws.CLOUD)


@dataclass(frozen=True)
class Baseline:
    """Charges of the clouds in `read`, and errors of those in `unread`.

    `requests`: requests to Cost Explorer, each of which is charged.
    """

    days: Days
    lines: list[Charge]
    read: list[str]
    unread: dict[str, TapeError]
    requests: int

    def total_of(self, cloud: str) -> Decimal | None:
        """USD, rounded to cents as an invoice is; None if the bill is unknown."""
        if cloud in self.unread:
            return None
        return in_cents(total(line.usd for line in self.lines if line.cloud == cloud))

    @property
    def total(self) -> Decimal | None:
        """USD of all requested clouds; None if one of the bills is unknown."""
        if self.unread:
            return None
        return total(self.total_of(cloud) or Decimal(0) for cloud in self.read)

    def lines_in_cents(self, cloud: str) -> list[tuple[Charge, Decimal]]:
        """The lines of a cloud with amounts in whole cents that add up to its total."""
        lines = [line for line in self.lines if line.cloud == cloud]
        return list(zip(lines, split_cents([line.usd for line in lines]), strict=True))

    @property
    def open_usd(self) -> Decimal:
        """USD that may still change."""
        return total(line.open_usd for line in self.lines)

    def notes(self, today: date) -> list[str]:
        """Sentences that qualify the amounts."""
        notes = []
        if self.days.last >= today:
            notes.append(f"{today} is not over: its charges are incomplete.")
        if self.open_usd:
            notes.append(
                f"{in_cents(self.open_usd):,} USD of it may still change: the clouds have not closed those days."
            )
        if self.requests:
            price = prices()["cost_explorer"]
            notes.append(
                f"Requests to Cost Explorer: {self.requests}, which add {self.requests * price.value} USD to the next bill "
                f"({price.source})."
            )
        return notes + [f"The bill of {cloud} is unknown: {error}" for cloud, error in self.unread.items()]


def baseline(
    days: Days, clouds: tuple[str, ...] = CLOUDS, *, by_component: bool = False, project: bool = False
) -> Baseline:
    """Read the bills of `clouds`.

    `by_component`: AWS charges by their tag `component`. `project`: only the AWS charges with the project's tag. Raises
    the error of a cloud if it is the only one; of several, errors are in `unread`.
    """
    requests = 0

    def read_aws() -> list[Charge]:
        nonlocal requests
        account = aws.Aws()
        try:
            by = aws.BY_COMPONENT if by_component else aws.BY_USAGE
            return account.bill(days, by, aws.PROJECT_TAG if project else None)
        finally:
            requests = account.requests

    def read_clickhouse() -> list[Charge]:
        return [charge for record in clickhouse_cloud.fetch_usage(days) for charge in record.charges()]

    readers = {clickhouse_cloud.CLOUD: read_clickhouse, aws.CLOUD: read_aws}
    charges, errors = read_clouds(clouds, readers)
    lines = group_charges(charge for each in charges.values() for charge in each)
    return Baseline(days, lines, list(charges), errors, requests)
