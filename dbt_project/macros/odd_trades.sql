{# Why a trade is odd: a value that the exchange should not send. Null where it is not. #}
{% macro oddity_of_trade() -%}
    multiIf(
        direction not in ('buy', 'sell'), 'unknown direction',
        kind not in ('future', 'option', 'spot', 'future_combo', 'option_combo'), 'unknown kind',
        timestamp > expiry, 'traded after its expiry',
        null
    )
{%- endmacro %}
