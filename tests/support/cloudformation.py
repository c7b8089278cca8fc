"""The template of `deploy/aws` as CloudFormation sees it: loops expanded, short forms as `{"Ref": …}`."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from extract.paths import ROOT

TEMPLATE = ROOT / "deploy/aws/template.yaml"


@cache
def template() -> dict[str, Any]:
    """The whole template. cfn-lint expands `Fn::ForEach`, as the transform AWS::LanguageExtensions does on AWS."""
    from cfnlint.decode import decode
    from cfnlint.template import Template

    content, errors = decode(str(TEMPLATE))
    expanded = Template(str(TEMPLATE), content, ["us-west-2"])
    errors += expanded.transform()
    assert errors == []
    result: dict[str, Any] = json.loads(json.dumps(expanded.template))
    return result


def resources() -> dict[str, dict[str, Any]]:
    return template()["Resources"]


def of_type(kind: str) -> list[dict[str, Any]]:
    """Properties of the resources of a type."""
    return [each["Properties"] for each in resources().values() if each["Type"] == kind]


def text(value: Any) -> str:
    """A string, also one in `Fn::Sub`, whose variables stay as they are."""
    substituted = value["Fn::Sub"] if isinstance(value, dict) else value
    return substituted if isinstance(substituted, str) else substituted[0]
