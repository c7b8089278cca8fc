{#
  What an analysis is asked about, from `--vars`: `dbt show --select option_chain --vars '{underlying: ETH, at: "2026-01-14 12:00:00"}'`.
  Times are UTC; without them an analysis looks at the newest trade there is, so it always has something to show.
#}
{% macro asked_underlying() -%} '{{ var('underlying', 'BTC') }}' {%- endmacro %}

{# The moment `at`; default: that of the newest trade. #}
{% macro asked_at() -%}
    {%- if var('at', none) -%} toDateTime64('{{ var('at') }}', 3, 'UTC')
    {%- else -%} (select max(newest.timestamp) from {{ ref('trades') }} as newest)
    {%- endif -%}
{%- endmacro %}

{# Predicate: `time` is on the day that `at` is on. #}
{% macro is_on_day(time) -%}
    {{ time }} >= toStartOfDay({{ asked_at() }}) and {{ time }} < toStartOfDay({{ asked_at() }}) + toIntervalDay(1)
{%- endmacro %}

{# The expiry `expiry`; default: the next one after `at` whose options were traded on its day. #}
{% macro asked_expiry() -%}
    {%- if var('expiry', none) -%} toDateTime('{{ var('expiry') }}', 'UTC')
    {%- else -%}
    (
        select min(nearest.expiry) from {{ ref('trades') }} as nearest
        where nearest.kind = 'option' and nearest.underlying = {{ asked_underlying() }}
            and nearest.expiry > {{ asked_at() }} and {{ is_on_day('nearest.timestamp') }}
    )
    {%- endif -%}
{%- endmacro %}
