{{ combined_candles('1d', finer='1h') }}
