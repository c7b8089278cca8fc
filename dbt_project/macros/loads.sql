{#
  Incremental models consume load packages in any order. `load_ledger` records which ones the table of a model has consumed:

    1. a pre-hook claims the pending packages under the id of this invocation;
    2. the model reads the claimed packages only;
    3. a post-hook marks the claim as consumed. A run that was killed before that reads the same packages again.

  Tables are identified by uuid, so a table that was rebuilt has consumed nothing.
#}

{# Id of this run's claims. Unit tests override it. #}
{% macro claim_id() %}{{ return(invocation_id) }}{% endmacro %}

{# Predicate: `column` is a load package that `model_name` claimed in this run. #}
{% macro is_claimed(column, model_name) -%}
    {{ column }} in (
        select claims.load_id from {{ ref('load_ledger') }} as claims
        where claims.model = '{{ model_name }}' and claims.claim_id = '{{ claim_id() }}' and not claims.is_consumed
    )
{%- endmacro %}

{# Time of this run's claim: later than any earlier claim of the model, even if the clock was set back. #}
{% macro claimed_at(model_name) -%}
    assumeNotNull((
        select max(claims.claimed_at) from {{ ref('load_ledger') }} as claims
        where claims.model = '{{ model_name }}' and claims.claim_id = '{{ claim_id() }}'
    ))
{%- endmacro %}

{# Load ids that the table of `model_name` has consumed. #}
{% macro consumed_loads(model_name) -%}
    select load_id from {{ ref('load_ledger').render() }}
    where model = '{{ model_name }}' and is_consumed
        and table_id = (
            select uuid from system.tables
            where database = '{{ target.schema }}' and name = '{{ model_name }}'
        )
{%- endmacro %}

{# Load packages that the extractor has finished. #}
{% macro finished_loads() -%}
    select load_id from {{ source('deribit_raw', '_dlt_loads').render() }} where status = 0
{%- endmacro %}

{# Pre-hook: claim the loads of `upstream` (a model; none: the finished ones) that this model has not consumed. #}
{% macro claim_loads(upstream=none) %}
{%- if execute and not flags.EMPTY -%}
insert into {{ ref('load_ledger').render() }} (model, table_id, load_id, claim_id, claimed_at, is_consumed)
select
    '{{ this.identifier }}', toUUID('00000000-0000-0000-0000-000000000000'), load_id, '{{ claim_id() }}',
    greatest(
        now64(6, 'UTC'),
        (
            select max(claimed_at) from {{ ref('load_ledger').render() }} where model = '{{ this.identifier }}'
        ) + toIntervalMicrosecond(1)
    ),
    false
from ({{ consumed_loads(upstream) if upstream else finished_loads() }})
{%- if is_incremental() %}
where load_id not in ({{ consumed_loads(this.identifier) }})
{%- endif %}
group by load_id
{%- endif -%}
{% endmacro %}

{# Post-hook: mark the claimed load packages as consumed. #}
{% macro record_loads() %}
{%- if execute and not flags.EMPTY -%}
insert into {{ ref('load_ledger').render() }} (model, table_id, load_id, claim_id, claimed_at, is_consumed)
select
    model,
    (
        select uuid from system.tables where database = '{{ this.schema }}' and name = '{{ this.identifier }}'
    ),
    load_id, claim_id, claimed_at, true
from {{ ref('load_ledger').render() }}
where model = '{{ this.identifier }}' and claim_id = '{{ claim_id() }}' and not is_consumed
{%- endif -%}
{% endmacro %}
