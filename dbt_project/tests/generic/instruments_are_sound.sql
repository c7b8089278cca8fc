{#
  Each instrument occurs once, and every instrument with trades occurs. A build tests the instruments of the newest load packages.
  Instruments of candles are compared with those of trades by candles_are_sound. `dbt test` also computes the first and the last trade of
  each instrument again and compares all columns.
#}
{% test instruments_are_sound(model) %}
-- depends_on: {{ ref('verified_months') }} {{ ref('consumed_loads') }} {{ ref('pending_loads') }} {{ ref('stg_deribit__loads') }} {{ ref('trades') }}
-- depends_on: {{ ref('instrument_ends') }} {{ ref('loaded_seqs') }} {{ ref('ohlcv_1m_versions') }} {{ ref('ohlcv_1h_versions') }}
-- depends_on: {{ ref('stg_deribit__trade_times') }} {{ ref('moved_trades') }} {{ ref('retention_drops') }}
{{ blocks_nothing() }}
with

{{ load_bounds() }},

traded as (
    select distinct instrument_name from {{ ref('trades') }}
    where {{ in_test_scope('timestamp', 'trade_versions') }}
        and {{ is_settled('loaded_at') }}
),

listed as (
    select instrument_name, count() as times
    from {{ model }}
    group by instrument_name
)

select traded.instrument_name as traded_name, listed.instrument_name as listed_name, listed.times as times
from traded
full outer join listed on traded.instrument_name = listed.instrument_name
where listed.times > 1 or listed.instrument_name = ''
{%- for instrument_name in wrong_ends(ref('instrument_ends')) %}
union all
select {{ sql_text(instrument_name) }}, {{ sql_text(instrument_name) }}, 1
{%- endfor %}
{% endtest %}
