"""The image, the template and the README of `deploy/aws` agree with the code, and the template is secure."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from extract.aws.batch_backfill import INTERRUPTED
from extract.cost.plan.estimate import AWS
from extract.cost.plan.inputs import assumptions
from extract.paths import ROOT
from tests.support.cloudformation import TEMPLATE, of_type, resources, template

DOCKERFILE = ROOT / "deploy/aws/Dockerfile"
FREE = 10
"""Alarms, and metrics, of an account that are not charged."""
SECRET_NAMES = ("PASSWORD", "CERT", "KEY", "HOST", "USER")


@pytest.mark.slow
@pytest.mark.process
def test_handlers_and_job_commands_exist() -> None:
    """Each Lambda names a callable, and the job a module that accepts its options."""
    handlers = [each["ImageConfig"]["Command"][0] for each in of_type("AWS::Lambda::Function")]
    handlers.append(re.findall(r'"([\w.]+lambda_handler)"', DOCKERFILE.read_text())[0])
    assert len(set(handlers)) == 2
    for handler in handlers:
        module, _, name = handler.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    (job,) = of_type("AWS::Batch::JobDefinition")
    command = [sys.executable, *job["ContainerProperties"]["Command"][1:3], "--help"]
    help_text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = [each for each in job["ContainerProperties"]["Command"] if each.startswith("--")]
    assert all(option in help_text for option in options)


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_files_copied_into_the_image_exist_and_are_not_ignored() -> None:
    """Every source of COPY exists and .dockerignore lets it in."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    copied = [
        source
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in shlex.split(rest)[:-1]
    ]
    assert {"requirements.lock", "pyproject.toml", "extract", ".dlt"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored


def test_image_installs_by_hash_and_runs_as_a_user() -> None:
    """Only this project is installed without a hash, from the copied files."""
    installs = [part for _, rest in instructions() for part in rest.split("&&") if "pip install" in part]
    assert ["--require-hashes -r /tmp/deploy.lock" in part for part in installs] == [True, False]
    assert installs[1].split()[-2:] == ["--editable", "."]
    assert "--no-deps --no-build-isolation" in installs[1]
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("CMD")
    assert dict(instructions())["USER"] == "tape"


def test_base_images_are_selected_by_digest() -> None:
    """A tag can be moved; without the build argument the build fails."""
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert len(bases) == 2
    assert all(base.endswith("@${PYTHON_DIGEST}") for base in bases)
    assert [rest for name, rest in instructions() if name == "ARG"] == ["PYTHON_DIGEST"]


@pytest.mark.process
def test_entry_points_import_without_the_packages_left_out_of_the_image() -> None:
    """The Dockerfile excludes packages of the lock by name: the API and development, and nothing that is needed."""
    listed = re.search(r'LEFT_OUT="(.*?)"', DOCKERFILE.read_text(), re.DOTALL)
    assert listed
    left_out = set(re.split(r"[|\\\n]+", listed[1]))
    lock = (ROOT / "requirements.lock").read_text()
    assert all(f"\n{name}==" in f"\n{lock}" for name in left_out)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build_tools = {"hatchling", "editables"}
    others = [*project["project"]["optional-dependencies"]["serve"], *project["dependency-groups"]["dev"]]
    names = {match[0].lower() for each in others if (match := re.match(r"[\w-]+", each))}
    assert names - build_tools <= left_out
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'chdb', '_chdb', 'dbt', 'moto', 'cfnlint', 'sqlfluff', 'pytest', 'hypothesis', 'mypy',
            'fastapi', 'starlette', 'uvicorn', 'prometheus_client', 'plotly', 'polars', 'pandas', 'duckdb',
            'networkx', 'sympy'}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import extract.aws.lambda_increment, extract.aws.batch_backfill, extract.aws.lambda_health, extract.health.checks
import extract.clickhouse.destination.job_client
import awslambdaric.bootstrap
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_billed_resource_is_tagged() -> None:
    """project=deribit-tape, and the component of the cost plan. Metrics cannot be tagged; a page tags what it creates."""
    untagged = (
        "AWS::CloudWatch::Dashboard",
        "AWS::Events::Rule",
        "AWS::Lambda::Permission",
        "AWS::Lambda::EventInvokeConfig",
    )
    components = set()
    for name, each in resources().items():
        if each["Type"] in untagged:
            continue
        tags = each["Properties"]["Tags"]
        tags = tags if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags}
        assert tags["project"] == "deribit-tape", name
        components.add(tags["component"])
    tagged_by_hand = re.findall(r"Key=component,Value=(\w+)", (ROOT / "deploy/aws/README.md").read_text())
    assert components.isdisjoint(tagged_by_hand)
    assert {*components, *tagged_by_hand, "metrics"} == set(AWS)
    assert of_type("AWS::Batch::JobDefinition")[0]["PropagateTags"] is True


def test_roles_have_least_privileges() -> None:
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


def test_task_roles_are_assumed_only_for_this_account() -> None:
    """Otherwise another account could make ECS use them. AWS documents no such condition for functions."""
    trusts = [
        statement
        for role in of_type("AWS::IAM::Role")
        for statement in role["AssumeRolePolicyDocument"]["Statement"]
        if statement["Principal"]["Service"] == "ecs-tasks.amazonaws.com"
    ]
    assert len(trusts) == 2
    for trust in trusts:
        assert set(trust["Condition"]["StringEquals"]) == {"aws:SourceAccount"}


def test_environments_hold_no_secrets() -> None:
    """Only the secret's name; the increment never runs twice at once, and its schedule is off by default."""
    environments = [each["Environment"]["Variables"] for each in of_type("AWS::Lambda::Function")]
    (job,) = of_type("AWS::Batch::JobDefinition")
    environments.append({each["Name"]: each["Value"] for each in job["ContainerProperties"]["Environment"]})
    for environment in environments:
        assert environment["TAPE_SECRET_ID"] == {"Ref": "SecretArn"}
        assert not [name for name in environment for part in SECRET_NAMES if part in name]
    assert [each.get("TAPE_LOADS_TOPIC") for each in environments] == [
        {"Ref": "Loads"},
        None,
        {"Ref": "Loads"},
    ]
    assert resources()["Increment"]["Properties"]["ReservedConcurrentExecutions"] == 1
    text = TEMPLATE.read_text()
    assert "Default: DISABLED" in text
    regions = set(re.findall(r"\b[a-z]{2}-[a-z]+-\d\b", text))
    assert regions == {"us-west-2"}


@pytest.mark.parametrize("page", ["deploy/aws/README.md"])
def test_page_names_every_required_parameter_and_only_known_entries(page: str) -> None:
    """Parameters of the template, and the entries of the secret."""
    from extract.aws.secret import NAMES

    text = (ROOT / page).read_text()
    parameters = template()["Parameters"]
    required = [name for name, each in parameters.items() if "Default" not in each]
    assert [name for name in required if f"{name}=" not in text] == []
    named = set(re.findall(r"CLICKHOUSE_CLOUD_\w+", text))
    assert named <= set(NAMES)
    assert {"CLICKHOUSE_CLOUD_HOST", "CLICKHOUSE_CLOUD_CLIENT_KEY"} <= named


def test_batch_job_is_retried_after_spot_interruption() -> None:
    """An interrupted job exits with 143; Batch allows `*` only at the end of a pattern."""
    (job,) = of_type("AWS::Batch::JobDefinition")
    *again, last = job["RetryStrategy"]["EvaluateOnExit"]
    assert {"Action": "RETRY", "OnExitCode": str(INTERRUPTED)} in again
    assert last == {"Action": "EXIT", "OnReason": "*"}
    patterns = [text for each in [*again, last] for name, text in each.items() if name != "Action"]
    assert [text for text in patterns if not re.fullmatch(r"[\w.:\s]*\*?", text)] == []


def test_cost_plan_counts_the_alarms_of_the_template() -> None:
    """`tape cost plan` prices each of them."""
    from extract.aws.lambda_health import METRICS, STATE_METRIC

    states = {
        each["Dimensions"][0]["Value"]
        for each in of_type("AWS::CloudWatch::Alarm")
        if each["MetricName"] == STATE_METRIC
    }
    assert assumptions()["alarms"].value == len(of_type("AWS::CloudWatch::Alarm")) - FREE
    assert assumptions()["metrics"].value == len(METRICS) + len(states) - FREE
