"""The exchange as a dlt source: `trades` per currency and kind, incremental and proven, and `instruments`."""
