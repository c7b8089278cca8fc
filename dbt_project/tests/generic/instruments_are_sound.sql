{#
  Each instrument occurs once, and every instrument with trades occurs. A build tests the instruments of the newest load packages.
  Instruments of candles are compared with those of trades by candles_are_sound.
#}
{% test instruments_are_sound(model) %}
-- depends_on: {{ ref('verified_months') }} {{ ref('consumed_loads') }} {{ ref('stg_deribit__loads') }} {{ ref('trades') }}
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
{% endtest %}
