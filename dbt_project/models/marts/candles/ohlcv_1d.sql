{{ latest_candles(ref('ohlcv_1d_versions')) }}
