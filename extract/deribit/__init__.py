"""Client of the exchange's API: trades as Arrow tables. Nothing is imported here, so that workers start quickly."""
