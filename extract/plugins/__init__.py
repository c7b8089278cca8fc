"""Plugins through which dlt and dbt load this project."""
