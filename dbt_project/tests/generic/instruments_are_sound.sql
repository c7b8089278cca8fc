{#
  As a reader sees them: each instrument once, and every one that has trades. Candles' instruments are held against those of the
  trades by candles_are_sound. In a build the instruments of the newest load packages are looked for.
#}
{% test instruments_are_sound(model) %}
-- depends_on: {{ ref('load_ledger') }} {{ ref('stg_deribit__trades') }} {{ ref('trades') }}
with

traded as (
    {% if checks_everything() -%}
    select distinct instrument_name from {{ ref('trades') }}
    {%- else -%}
    select distinct instrument_name from {{ ref('stg_deribit__trades') }}
    where {{ is_checked('load_id', 'instrument_tallies') }}
    {%- endif %}
),

shown as (
    select instrument_name, count() as times
    from {{ model }}
    group by instrument_name
)

select traded.instrument_name as traded_name, shown.instrument_name as shown_name, shown.times as times
from traded
full outer join shown on traded.instrument_name = shown.instrument_name
where shown.times > 1 or shown.instrument_name = ''
{% endtest %}
