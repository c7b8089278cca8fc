{{ config(pre_hook="{{ claim_loads('trade_versions') }}") }}

{{ candles('1m') }}
