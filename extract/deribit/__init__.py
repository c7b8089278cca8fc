"""The exchange's API: a request in, an Arrow table out. Imports nothing here, so that worker processes start quickly."""
