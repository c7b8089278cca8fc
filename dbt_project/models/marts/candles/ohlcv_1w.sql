{{ latest_candles(ref('ohlcv_1w_versions')) }}
