-- One row per portion of the next load packages to refresh; empty if all are consumed.
{{ portions_of('select load_id from ' ~ ref('pending_loads')) }}
