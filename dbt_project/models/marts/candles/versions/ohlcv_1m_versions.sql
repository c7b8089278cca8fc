{{ config(pre_hook="{{ claim_loads('trade_versions') }}") }}

{{ candles_from_trades('1m') }}
