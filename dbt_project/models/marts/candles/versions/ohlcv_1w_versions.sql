{{ config(pre_hook="{{ claim_loads('ohlcv_1d_versions') }}") }}

{{ candles('1w', finer='1d') }}
