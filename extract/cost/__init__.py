"""Costs: bills of the cloud providers, measurements of volume and storage, and plans based on both."""
