"""Metrics for Prometheus: requests of this process, and the state of each stream."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from extract.serve.service import Service

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABELS = ("currency", "kind")


class StreamGauges:
    """Gauges that are set from the database whenever metrics are read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._covered_to = self._gauge(
            "tape_covered_to_seconds", "End of the covered time, seconds since 1970."
        )
        self._missing = self._gauge(
            "tape_missing_trades", "Trades that are missing and that the exchange may have."
        )
        self._absent = self._gauge("tape_absent_trades", "Trades that the exchange does not have.")
        self._trades = self._gauge("tape_trades", "Loaded trades.")
        self._loaded_at = self._gauge("tape_last_load_seconds", "The newest load, seconds since 1970.")

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, _LABELS, registry=self._registry)

    async def text(self, service: Service) -> bytes:
        """All metrics in the text format."""
        coverage = await service.coverage.get()
        for stream, spans in coverage.spans.items():
            self._covered_to.labels(*stream).set(spans[-1][1] / 1000)
        for row in await service.progress.get():
            labels = (row["currency"], row["kind"])
            self._missing.labels(*labels).set(row["missing"])
            self._absent.labels(*labels).set(row["absent"])
            self._trades.labels(*labels).set(row["trades"])
            self._loaded_at.labels(*labels).set(datetime.fromisoformat(row["last_load_at"]).timestamp())
        return generate_latest(self._registry)
