-- One row per finished load package that is not in all tables yet.
{{ built_after('consumed_loads') -}}
{{ pending_loads(ref('consumed_loads'), after=consumed_until(ref('verified_months'))) }}
