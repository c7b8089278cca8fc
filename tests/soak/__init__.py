"""The soak test, for some minutes."""
