"""How the cloud service is set up to idle, which is what decides the bill; asked of ClickHouse Cloud where a key is set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from extract.cost.billing.clickhouse_cloud import Service, UsageCostClient, cloud_api_settings
from extract.cost.plan.inputs import Inputs
from extract.errors import TapeError
from extract.retry import Retrier, RetryPolicy

GB_A_UNIT = 8
PATIENCE = RetryPolicy(attempts=2, total_s=10.0, first_s=0.5)


def apply_service_settings(inputs: Inputs, env: Mapping[str, str] = os.environ) -> list[str]:
    """Minutes to idle and size of the service at CLICKHOUSE_CLOUD_HOST, or of the only one; a note where there is none."""
    if not env.get("CLICKHOUSE_CLOUD_ORGANIZATION_ID"):
        return []
    try:
        with UsageCostClient(cloud_api_settings(env), retrier=Retrier(PATIENCE)) as client:
            services = client.services()
    except TapeError as error:
        return [f"How the cloud service idles is assumed: {error}"]
    service = _ours(services, env.get("CLICKHOUSE_CLOUD_HOST"))
    if service is None:
        return [f"None of {len(services)} services is at CLICKHOUSE_CLOUD_HOST: how ours idles is assumed."]
    source = f"measured: service {service.name} of ClickHouse Cloud"
    if service.idle_timeout_minutes:
        inputs.put(
            "idle_minutes", service.idle_timeout_minutes, "minutes without a query until it idles", source
        )
    if service.num_replicas and service.min_replica_memory_gb:
        units = service.num_replicas * service.min_replica_memory_gb / GB_A_UNIT
        inputs.put("compute_units", units, "compute units of the service, at its smallest", source)
    if service.idle_scaling:
        return []
    return [f"Service {service.name} is set up never to idle: on demand holds once its idleScaling is on."]


def _ours(services: Sequence[Service], host: str | None) -> Service | None:
    at_host = [each for each in services if host and host in {end.host for end in each.endpoints}]
    if at_host or len(services) != 1:
        return at_host[0] if at_host else None
    return services[0]
