"""Installed as the top-level module `dbt_tape`, where dbt looks for plugins."""

from extract.plugins.dbt_plugin import TapePlugin

plugins = [TapePlugin]
