{#
  Parse instrument names. Reads the column `instrument_name` and renders the select expressions underlying, quote_currency,
  settlement_currency, expiry, strike and option_type, which are null where the name does not match. A strike that no market can have is null.

    spot       BTC_USDT
    future     BTC-PERPETUAL  BTC_USDC-PERPETUAL  BTC-27JUN25  BTC-5APR24
    option     BTC-27JUN25-100000-C  XRP_USDC-30JUN25-2d10-C        d is the decimal point
    combo      BTC-FS-27JUN25_PERP  BTC-CS-19MAY26-70000_75000      not parsed

  A pair with `_` is linear: quoted and settled in its second currency. Without it an instrument is inverse: settled in the
  coin, with futures quoted in USD and options in the coin. Expiry is 08:00 UTC of the day in the name.
#}
{% macro instrument_parts() %}
    extractGroups(
        instrument_name,
        '^([A-Z0-9]+)(_([A-Z0-9]+))?(-(PERPETUAL|(([0-9]{1,2})([A-Z]{3})([0-9]{2}))(-([0-9]+(d[0-9]+)?)-([CP]))?))?$'
    ) as name_groups,
    name_groups[1] as name_base,
    name_groups[3] as name_pair,
    name_groups[4] != '' as is_derivative,
    toUInt8(indexOf(
        ['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC'], name_groups[8]
    )) as expiry_month,
    toUInt8OrZero(name_groups[7]) as expiry_day,
    makeDate(2000 + toUInt16OrZero(name_groups[9]), expiry_month, expiry_day) as expiry_date,
    expiry_month > 0 and toDayOfMonth(expiry_date) = expiry_day as has_expiry,
    name_base != '' and (
        name_groups[5] = 'PERPETUAL' or has_expiry or (not is_derivative and name_pair != '')
    ) as is_parsed,
    is_parsed and name_groups[13] != '' as is_option_name,
    if(is_parsed, name_base, null) as underlying,
    multiIf(
        not is_parsed, null,
        name_pair != '', name_pair,
        is_option_name, name_base,
        'USD'
    ) as quote_currency,
    multiIf(
        not is_parsed or not is_derivative, null,
        name_pair != '', name_pair,
        name_base
    ) as settlement_currency,
    if(is_parsed and has_expiry, toDateTime(expiry_date, 'UTC') + toIntervalHour(8), null) as expiry,
    toFloat64OrZero(replaceOne(name_groups[11], 'd', '.')) as name_strike,
    if(is_option_name and {{ is_possible_price('name_strike') }}, name_strike, null) as strike,
    multiIf(not is_option_name, null, name_groups[13] = 'C', 'call', 'put') as option_type
{%- endmacro %}

{# CTE `names`: the parts of the names of the instruments in `rows`. A name is parsed once, not for each row. #}
{% macro parsed_names(rows, where='true') %}
names as (
    select
        instrument_name,
        {{ instrument_parts() }}
    from (select distinct instrument_name from {{ rows }} where {{ where }}) as distinct_names
)
{% endmacro %}

{# First expiry of the legs that the name of a combo has, 08:00 UTC; null where it has none. #}
{% macro first_leg_expiry(name) -%}
    arrayMin(arrayMap(
        day -> parseDateTimeOrNull(leftPad(day, 7, '0'), '%d%b%y', 'UTC'), extractAll({{ name }}, '[0-9]{1,2}[A-Z]{3}[0-9]{2}')
    )) + toIntervalHour(8)
{%- endmacro %}
