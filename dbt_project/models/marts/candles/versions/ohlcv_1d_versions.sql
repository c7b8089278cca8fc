{{ config(pre_hook="{{ claim_loads('ohlcv_4h_versions') }}") }}

{{ candles_from_candles('1d', finer='4h') }}
