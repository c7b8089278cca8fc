"""Shared code of tests and benchmarks: raw tables filled by hand, and dbt in this process."""
