{{ latest_candles(ref('ohlcv_1h_versions')) }}
