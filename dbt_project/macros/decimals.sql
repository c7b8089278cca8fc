{#
  The exchange's floats are decimals of few places: 45.07, 94738.78, 0.00056176. Kept as an integer of their digits and the number
  of places they take half of the bytes that floats take. The two make the same float again, for the division is rounded as the
  text was; a number that none of the places gives back is kept as its bits.
#}
{%- macro as_bits() -%} {{ return(255) }} {%- endmacro -%}

{% macro decimal_places(number) -%}
    {%- set float = 'assumeNotNull(' ~ number ~ ')' -%}
    toUInt8(multiIf(
        {%- for places in (2, 4, 8) %}
        abs({{ float }}) < {{ 9 * 10 ** (15 - places) }}
        and {{ float }} = round({{ float }} * exp10({{ places }})) / exp10({{ places }}), {{ places }},
        {%- endfor %}
        {{ as_bits() }}
    ))
{%- endmacro %}

{% macro decimal_digits(number, places) -%}
    multiIf(
        {{ number }} is null, null,
        {{ places }} = {{ as_bits() }}, reinterpretAsInt64(assumeNotNull({{ number }})),
        toInt64(round(assumeNotNull({{ number }}) * exp10({{ places }})))
    )
{%- endmacro %}

{% macro decimal_number(digits, places) -%}
    if({{ places }} = {{ as_bits() }}, reinterpretAsFloat64({{ digits }}), {{ digits }} / exp10({{ places }}))
{%- endmacro %}
