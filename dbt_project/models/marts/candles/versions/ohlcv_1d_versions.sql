{{ config(pre_hook="{{ claim_loads('ohlcv_4h_versions') }}") }}

{{ candles('1d', finer='4h') }}
