{{ latest_candles(ref('ohlcv_4h_versions')) }}
