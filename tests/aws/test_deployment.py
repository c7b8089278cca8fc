"""What `deploy/aws` names is there, and the template says what is promised of it."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from functools import cache
from typing import Any

import pytest
import yaml

from extract.aws.batch_backfill import INTERRUPTED
from extract.cost.plan.inputs import assumptions
from extract.paths import ROOT
from tests.support.commands import BIN

TEMPLATE = ROOT / "deploy/aws/template.yaml"
DOCKERFILE = ROOT / "deploy/aws/Dockerfile"
SECRET_WORDS = ("PASSWORD", "CERT", "KEY", "HOST", "USER")


class _Loader(yaml.SafeLoader):
    """CloudFormation's short forms as plain values: `!Ref X` is ["Ref", "X"]."""


def _short_form(loader: yaml.Loader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return [tag, loader.construct_scalar(node)]
    return [tag, loader.construct_sequence(node)]  # type: ignore[arg-type]


_Loader.add_multi_constructor("!", _short_form)


@cache
def resources() -> dict[str, dict[str, Any]]:
    return yaml.load(TEMPLATE.read_text(), _Loader)["Resources"]


def of_type(kind: str) -> list[dict[str, Any]]:
    return [each["Properties"] for each in resources().values() if each["Type"] == kind]


def test_cfn_lint_finds_nothing() -> None:
    """Neither an error nor a warning nor a hint, in the region where all of it runs."""
    command = [str(BIN / "cfn-lint"), "--regions", "us-west-2", "--include-checks", "I", "-t", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_handlers_and_commands_are_there() -> None:
    """Each Lambda names a function that is one, the job a module that runs."""
    handlers = [each["ImageConfig"]["Command"][0] for each in of_type("AWS::Lambda::Function")]
    handlers.append(re.findall(r'"([\w.]+lambda_handler)"', DOCKERFILE.read_text())[0])
    assert len(set(handlers)) == 2
    for handler in handlers:
        module, _, name = handler.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    (job,) = of_type("AWS::Batch::JobDefinition")
    words = [sys.executable, *job["ContainerProperties"]["Command"][1:3], "--help"]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    given = [word for word in job["ContainerProperties"]["Command"] if word.startswith("--")]
    assert all(word in said for word in given)


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_what_the_image_copies_is_there_and_let_through() -> None:
    """Every source of COPY exists and .dockerignore lets it in."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    copied = [
        word
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for word in shlex.split(rest)[:-1]
    ]
    assert {"requirements.lock", "pyproject.toml", "extract", ".dlt"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored


def test_dependencies_come_from_the_lock_by_hash_and_nothing_runs_as_root() -> None:
    """Only our own package is installed without a hash, from the files that were copied."""
    installs = [part for _, rest in instructions() for part in rest.split("&&") if "pip install" in part]
    assert ["--require-hashes -r /tmp/deploy.lock" in part for part in installs] == [True, False]
    assert installs[1].split()[-2:] == ["--editable", "."]
    assert "--no-deps --no-build-isolation" in installs[1]
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("CMD")
    assert dict(instructions())["USER"] == "tape"


def test_what_the_image_leaves_out_is_in_the_lock_and_not_needed() -> None:
    """Modules of the entry points, of a run and of health import without it."""
    pattern = re.search(r"!/\^\((.*?)\)==/", DOCKERFILE.read_text())
    assert pattern
    left_out = pattern[1].split("|")
    lock = (ROOT / "requirements.lock").read_text()
    assert all(f"\n{name}==" in f"\n{lock}" for name in left_out)
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'chdb', '_chdb', 'dbt', 'moto', 'cfnlint', 'sqlfluff', 'pytest', 'xdist', 'hypothesis'}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import extract.aws.lambda_increment, extract.aws.batch_backfill, extract.aws.lambda_health, extract.health.checks
import extract.clickhouse.destination.job_client
import awslambdaric.bootstrap
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_everything_that_costs_bears_the_tags() -> None:
    """project=deribit-tape, and component as `tape cost baseline --by-component` groups."""
    untagged = ("AWS::Events::Rule", "AWS::Lambda::Permission", "AWS::Lambda::EventInvokeConfig")
    components = set()
    for name, each in resources().items():
        if each["Type"] in untagged:
            continue
        tags = each["Properties"]["Tags"]
        tags = tags if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags}
        assert tags["project"] == "deribit-tape", name
        components.add(tags["component"])
    assert components == {"increment", "backfill", "health"}
    assert of_type("AWS::Batch::JobDefinition")[0]["PropagateTags"] is True


def test_no_role_may_more_than_it_needs() -> None:
    """Actions are named one by one; a resource is `*` only where AWS takes no other."""
    anywhere = {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}
    roles = of_type("AWS::IAM::Role")
    assert len(roles) == 4
    for role in roles:
        assert "ManagedPolicyArns" not in role
        for policy in role["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                actions = statement["Action"]
                actions = [actions] if isinstance(actions, str) else actions
                assert not [action for action in actions if "*" in action]
                assert statement["Resource"] != "*" or set(actions) <= anywhere
                assert "cloudwatch:PutMetricData" not in actions or "Condition" in statement


def test_no_secret_stands_in_an_environment() -> None:
    """Only the secret's name does; the increment runs alone; the schedule waits for the backfill."""
    environments = [each["Environment"]["Variables"] for each in of_type("AWS::Lambda::Function")]
    (job,) = of_type("AWS::Batch::JobDefinition")
    environments.append({each["Name"]: each["Value"] for each in job["ContainerProperties"]["Environment"]})
    for environment in environments:
        assert environment["TAPE_SECRET_ID"] == ["Ref", "SecretArn"]
        assert not [name for name in environment for word in SECRET_WORDS if word in name]
    assert resources()["Increment"]["Properties"]["ReservedConcurrentExecutions"] == 1
    text = TEMPLATE.read_text()
    assert "Default: DISABLED" in text
    regions = set(re.findall(r"\b[a-z]{2}-[a-z]+-\d\b", text))
    assert regions == {"us-west-2"}


def test_alarms_stand_on_metrics_that_are_published() -> None:
    """By namespace and name; the alarm on lines of health also hears that nobody looked."""
    from extract.aws.lambda_health import METRICS, NAMESPACE

    alarms = {each["AlarmName"]: each for each in of_type("AWS::CloudWatch::Alarm")}
    ours = [each for each in alarms.values() if each["Namespace"] == NAMESPACE]
    assert {each["MetricName"] for each in ours} == {METRICS["alarm"], METRICS["unknown"]}
    assert alarms["deribit-tape-health"]["TreatMissingData"] == "breaching"
    assert all(each["AlarmActions"] == [["Ref", "Alarms"]] for each in alarms.values())


@pytest.mark.parametrize("page", ["deploy/aws/README.md"])
def test_the_page_names_what_is_there(page: str) -> None:
    """Parameters of the template, and the entries of the secret."""
    from extract.aws.secret import NAMES

    text = (ROOT / page).read_text()
    parameters = yaml.load(TEMPLATE.read_text(), _Loader)["Parameters"]
    required = [name for name, each in parameters.items() if "Default" not in each]
    assert [name for name in required if f"{name}=" not in text] == []
    named = set(re.findall(r"CLICKHOUSE_CLOUD_\w+", text))
    assert named <= set(NAMES)
    assert {"CLICKHOUSE_CLOUD_HOST", "CLICKHOUSE_CLOUD_CLIENT_KEY"} <= named


def test_what_spot_took_is_tried_again() -> None:
    """A job that was stopped in time ends with 143; Batch takes `*` at the end of a pattern alone."""
    (job,) = of_type("AWS::Batch::JobDefinition")
    *again, last = job["RetryStrategy"]["EvaluateOnExit"]
    assert {"Action": "RETRY", "OnExitCode": str(INTERRUPTED)} in again
    assert last == {"Action": "EXIT", "OnReason": "*"}
    patterns = [text for each in [*again, last] for name, text in each.items() if name != "Action"]
    assert [text for text in patterns if not re.fullmatch(r"[\w.:\s]*\*?", text)] == []


def test_nobody_is_alarmed_before_health_is_looked_at() -> None:
    """An alarm that takes silence for trouble is there only while the schedule is."""
    silent = [
        each for each in resources().values() if each["Properties"].get("TreatMissingData") == "breaching"
    ]
    assert [each.get("Condition") for each in silent] == ["IsScheduled"]


def test_health_wakes_the_service_no_more_often_than_is_wanted() -> None:
    """Its schedule is a parameter, and the alarms that stand on it wait for as long."""
    rule = resources()["HealthRule"]["Properties"]
    assert rule["ScheduleExpression"] == ["Ref", "HealthSchedule"]
    alarms = [each for each in of_type("AWS::CloudWatch::Alarm") if each["Namespace"] == "DeribitTape"]
    assert [each["Period"] for each in alarms] == [["Ref", "HealthPeriod"]] * 2


def test_the_plan_counts_the_alarms_that_there_are() -> None:
    """`tape cost plan` prices them."""
    assert assumptions()["alarms"].value == len(of_type("AWS::CloudWatch::Alarm"))
