-- Expressions about a record of <rejected_trades>. ClickHouse cannot parse its text if it is not JSON, has a number out of
-- range or is nested too deep. The text is then searched for the field, if it is there only once: a second one may be a leg's.

-- name: rejected_is_trade
-- Records of other lists have reasons of their own, and time that was set aside a record of its own.
not match(reason, '^not (a currency|an instrument)') and (JSONHas(raw, 'trade_seq') or not JSONHas(raw, 'unproven_from_ms'))

-- name: rejected_name
if(
    isValidJSON(raw) or countSubstrings(raw, '"instrument_name"') != 1,
    JSONExtractString(raw, 'instrument_name'),
    extract(raw, '"instrument_name"\\s*:\\s*"([^"\\\\]+)"')
)

-- name: rejected_seq
-- A number with decimal places is none.
if(
    isValidJSON(raw) or countSubstrings(raw, '"trade_seq"') != 1,
    if(JSONType(raw, 'trade_seq') = 'Double', 0, JSONExtractInt(raw, 'trade_seq')),
    toInt64OrZero(extract(raw, '"trade_seq"\\s*:\\s*(\\d+)\\s*[,}]'))
)

-- name: rejected_ms
if(
    isValidJSON(raw) or countSubstrings(raw, '"timestamp"') != 1,
    JSONExtractInt(raw, 'timestamp'),
    toInt64OrZero(extract(raw, '"timestamp"\\s*:\\s*(\\d+)\\s*[,}]'))
)
