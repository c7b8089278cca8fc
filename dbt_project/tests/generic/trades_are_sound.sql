{#
  Trades are consistent, per instrument: exactly the trades of the raw rows, each once. Bitmaps of trade_seq are exact and need little
  memory. What the exchange should not send is in `odd_trades`, whose test stops no other model.

  A build compares the months in its scope, and all months of the instruments that differ there or have a trade that is being moved: a moved
  trade is where its newest version is.
#}
{% test trades_are_sound(model) %}
-- depends_on: {{ ref('verified_months') }} {{ ref('consumed_loads') }} {{ ref('pending_loads') }} {{ ref('stg_deribit__loads') }}
-- depends_on: {{ ref('stg_deribit__trade_times') }} {{ ref('trade_versions') }} {{ ref('moved_trades') }}
{{ blocks_nothing() }}
with

{{ load_bounds() }},

{% if not is_full_test() -%}
differing as (
    {{ wrong_numbers(model, in_test_scope('timestamp', 'trade_versions')) }}
),

doubtful as (
    select instrument_name from differing
    union distinct
    select moved.instrument_name from {{ ref('moved_trades') }} as moved
    where {{ in_test_scope('moved.timestamp', 'trade_versions') }}
),

{% endif -%}
final as (
    {{ wrong_numbers(model, 'true' if is_full_test() else 'instrument_name in (select doubtful.instrument_name from doubtful)') }}
)

select * from final
{% endtest %}
