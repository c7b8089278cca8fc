"""Export of trades, candles and series as Parquet or CSV files, with a manifest that proves them."""
