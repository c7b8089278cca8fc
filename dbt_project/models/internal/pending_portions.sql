-- One row per portion of the next load packages to refresh; empty if all are consumed.
{{ portions_of(pending_loads(ref('consumed_loads'))) }}
