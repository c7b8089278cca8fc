"""ClickHouse: connections and errors, the lease, roles, the dlt destination and the embedded server."""
