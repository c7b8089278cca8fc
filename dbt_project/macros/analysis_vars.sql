{#
  Parameters of the analyses, from `--vars`: `dbt show --select option_chain --vars '{underlying: ETH, at: "2026-01-14 12:00:00"}'`.
  Times are UTC. By default an analysis uses the time of the newest trade, so that its result is not empty.
#}
{% macro analysis_underlying() -%} '{{ var('underlying', 'BTC') }}' {%- endmacro %}

{# The time `at`; default: that of the newest trade. #}
{% macro analysis_time() -%}
    {%- if var('at', none) -%} toDateTime64('{{ var('at') }}', 3, 'UTC')
    {%- else -%} (select max(newest.last_at) from {{ ref('instrument_ends') }} as newest)
    {%- endif -%}
{%- endmacro %}

{# Predicate: `time` is on the day of `at`. #}
{% macro is_on_day(time) -%}
    {{ time }} >= toStartOfDay({{ analysis_time() }}) and {{ time }} < toStartOfDay({{ analysis_time() }}) + toIntervalDay(1)
{%- endmacro %}

{# The expiry `expiry`; default: the next one after `at` with option trades on the day of `at`. #}
{% macro analysis_expiry() -%}
    {%- if var('expiry', none) -%} toDateTime('{{ var('expiry') }}', 'UTC')
    {%- else -%}
    (
        select min(nearest.expiry) from {{ ref('trades') }} as nearest
        where nearest.kind = 'option' and nearest.underlying = {{ analysis_underlying() }}
            and nearest.expiry > {{ analysis_time() }} and {{ is_on_day('nearest.timestamp') }}
    )
    {%- endif -%}
{%- endmacro %}
