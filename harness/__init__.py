"""What tests and benchmarks share: raw tables filled by hand, and dbt in this process."""
