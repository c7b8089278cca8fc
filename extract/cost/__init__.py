"""Costs: bills of the cloud providers, measurements of volume and storage, and plans that rest on both."""
