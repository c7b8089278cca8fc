"""Entry point of the dbt plugin, installed as the top-level module `dbt_tape`."""

from extract.plugins.dbt_plugin import TapePlugin

plugins = [TapePlugin]
