{{ config(pre_hook="{{ claim_loads('ohlcv_1h_versions') }}") }}

{{ candles('4h', finer='1h') }}
