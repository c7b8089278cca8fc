{{ config(pre_hook="{{ claim_loads('ohlcv_1d_versions') }}") }}

{{ candles_from_candles('1mo', finer='1d') }}
