{{ combined_candles('15m', finer='1m') }}
