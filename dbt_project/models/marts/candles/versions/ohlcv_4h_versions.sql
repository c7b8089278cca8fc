{{ config(pre_hook="{{ claim_loads('ohlcv_1h_versions') }}") }}

{{ candles_from_candles('4h', finer='1h') }}
