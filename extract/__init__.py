"""Every Deribit trade, in your ClickHouse, provably gapless: the extractor."""
