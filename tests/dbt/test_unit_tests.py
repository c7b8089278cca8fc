"""The unit tests of the models, which `dbt build` leaves out by default, pass."""

from __future__ import annotations

from harness.dbt_project import Project


def test_unit_tests_of_the_models_pass(dbt: Project) -> None:
    dbt.empty()
    results = dbt.must("test", "--select", "test_type:unit").result.results
    passed = {result.node.unique_id for result in results if result.node.resource_type == "unit_test"}
    assert passed == set(dbt.runner.manifest.unit_tests)
    assert len(passed) > 30
