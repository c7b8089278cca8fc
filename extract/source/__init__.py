"""The dlt source: its resources, its state, and the registry of the tables that it loads."""
