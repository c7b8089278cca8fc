{{ config(pre_hook="{{ claim_loads('ohlcv_1m_versions') }}") }}

{{ candles('15m', finer='1m') }}
