"""Every rule is valid, uses recorded names, and every alert fires, stays quiet and survives vanishing series."""

import functools
import hashlib
import json
import re
from typing import Any

import pytest
import yaml

from helpers.promql import series_of
from helpers.promtool import promtool
from helpers.rendering import fleet
from helpers.repository import ROOT, read_yaml

CASES = read_yaml(ROOT / "tests/prometheus/cases.yml")
RULES = ["recording.yml", "alerts.yml"]
RUNBOOKS = "https://runbooks.test"

# The fleet that the cases speak of, whatever the inventories hold.
INPUTS = {
    "prometheus_cluster": "pgfleet",
    "prometheus_environment": "test",
    "prometheus_runbook_url": RUNBOOKS,
    "prometheus_declared_roles": [
        {"tier": "monitoring", "declared_role": "monitoring", "names": ["mon1"]},
        {"tier": "postgresql", "declared_role": "primary", "names": ["pg1"]},
        {"tier": "postgresql", "declared_role": "replica", "names": ["pg2"]},
        {"tier": "routing_client", "declared_role": "client", "names": ["app1"]},
    ],
    "prometheus_scrape_jobs": [
        {"name": "alertmanager", "targets": {"mon1": "mon1:9093"}},
        {"name": "node_exporter", "targets": {name: f"{name}:9100" for name in ("app1", "mon1", "pg1", "pg2")}},
        {"name": "pgroute", "targets": {"app1": "app1:8080"}},
        {"name": "postgres_exporter", "targets": {"pg1": "pg1:9187", "pg2": "pg2:9187"}},
        {"name": "prometheus", "targets": {"mon1": "mon1:9090"}},
    ],
}


@functools.cache
def rendered(name: str) -> str:
    """A rules file as the role writes it, with the role's own thresholds."""
    inventory = fleet("inventories/docker.yml")
    role = ROOT / "roles/prometheus"
    known = {**inventory.variables("mon1", roles=["prometheus"]), **INPUTS}
    return inventory.resolve_text((role / f"templates/etc/prometheus/rules/{name}.j2").read_text(), known, [role])


@functools.cache
def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(rendered(name))["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules("alerts.yml")}


def all_cases() -> list[tuple[str, str]]:
    return [(alert, case) for alert, cases in CASES["cases"].items() for case in cases]


def labelled(series: str) -> str:
    """The series with the labels that Prometheus adds to everything it scrapes."""
    own = 'cluster="pgfleet",environment="test"'
    if series == "{}":
        return series
    return series.replace("{", f"{{{own},", 1) if "{" in series else f"{series}{{{own}}}"


def input_series(changes: dict[str, Any]) -> list[dict[str, str]]:
    if "everything" in changes:
        return []
    series = {**CASES["healthy"], **changes}
    return [
        {"series": labelled(name), "values": str(value) if "x" in str(value) or " " in str(value) else f"{value}x200"}
        for name, value in series.items() if value is not None
    ]


def expected_alert(alert: str, fired: dict[str, str]) -> dict[str, Any]:
    labels = {name: value for name, value in fired.items() if name != "summary"}
    return {
        "exp_labels": {**labels, "cluster": "pgfleet", "environment": "test", "severity": alerts()[alert]["labels"]["severity"]},
        "exp_annotations": {"summary": fired["summary"], "runbook_url": f"{RUNBOOKS}/{alert}.md"},
    }


def unit_tests() -> dict[str, Any]:
    """What promtool is to run: cases with the same series share one test, which loads and evaluates them once."""
    sharing: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for alert, cases in CASES["cases"].items():
        for what in cases.values():
            sharing.setdefault(json.dumps(what.get("series", {}), sort_keys=True), []).append((alert, what))
    tests: list[dict[str, Any]] = [
        {
            "interval": "30s",
            "input_series": input_series(json.loads(series)),
            "name": series_name(json.loads(series)),
            "alert_rule_test": [
                {"eval_time": what["at"], "alertname": alert, "exp_alerts": [expected_alert(alert, one) for one in what.get("alerts", [])]}
                for alert, what in cases
            ],
        }
        for series, cases in sharing.items()
    ]
    tests += [
        {
            "name": f"recorded: {expression}",
            "interval": "30s",
            "input_series": input_series(what["series"]),
            "promql_expr_test": [{
                "expr": expression, "eval_time": what["at"],
                "exp_samples": [{"labels": labelled(name), "value": value} for name, value in what["values"].items()],
            }],
        }
        for expression, what in CASES["recorded"].items()
    ]
    groups = [group["name"] for name in RULES for group in yaml.safe_load(rendered(name))["groups"]]
    return {"rule_files": RULES, "evaluation_interval": "30s", "group_eval_order": groups, "tests": tests}


def series_name(series: dict[str, Any]) -> str:
    """A name for the cases that change these series."""
    return hashlib.sha256(json.dumps(series, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def failures() -> dict[str, str]:
    """{what was tested: what promtool says against it}, of all cases in one run."""
    files = {name: rendered(name) for name in RULES}
    code, output = promtool("test", "rules", "tests.yml", files={**files, "tests.yml": yaml.safe_dump(unit_tests(), width=1000)})
    # An alert's failure begins with the name of its test and its own, a value's failure with its expression.
    told: dict[str, str] = {}
    for kind, name, said in re.findall(r"^ {4}(name|expr): (.*?)\n(.*?)(?=^ {4}(?:name|expr): |\Z)", output, re.DOTALL | re.MULTILINE):
        asked = re.match(r" *alertname: (\w+), time: (\w+)", said)
        if kind == "expr":
            subject = f"recorded: {json.loads(name.rpartition(', time: ')[0])}"
        else:
            subject = " ".join([name.rstrip(","), *(asked.groups() if asked else [])])
        told[subject] = told.get(subject, "") + said
    assert code == 0 or told, output
    return told


@pytest.mark.parametrize("name", RULES)
def test_rules_are_valid(name: str) -> None:
    code, output = promtool("check", "rules", "--lint-fatal", name, files={name: rendered(name)})
    assert code == 0, output


@pytest.mark.parametrize(("alert", "case"), all_cases(), ids=[f"{alert}-{case}" for alert, case in all_cases()])
def test_alert(alert: str, case: str) -> None:
    what = CASES["cases"][alert][case]
    assert failures().get(f"{series_name(what.get('series', {}))} {alert} {what['at']}", "") == ""


@pytest.mark.parametrize("expression", CASES["recorded"])
def test_recorded_value(expression: str) -> None:
    assert failures().get(f"recorded: {expression}", "") == ""


def test_every_alert_has_its_cases() -> None:
    without = {
        alert: kind for alert in alerts() for kind in ("fires", "quiet", "vanishes")
        if not any(case.startswith(kind) for case in CASES["cases"].get(alert, {}))
    }
    assert without == {}
    assert set(CASES["cases"]) == set(alerts())


@pytest.mark.parametrize("alert", sorted({alert for alert, _ in all_cases()}))
def test_alert_has_a_runbook(alert: str) -> None:
    page = (ROOT / "docs/runbooks" / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    assert "## What it means" in page
    assert "## What to do" in page


def test_every_alert_tells_who_is_woken() -> None:
    assert {rule["labels"]["severity"] for rule in alerts().values()} <= {"critical", "warning", "none"}


def test_alerts_use_recorded_names_only() -> None:
    used = {series.name for rule in rules("alerts.yml") for series in series_of(rule["expr"])}
    assert {name for name in used if not name.startswith("pgfleet:")} == set()


def test_alerts_use_names_that_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules("recording.yml")}
    used = {
        series.name for name in ("alerts.yml", "recording.yml") for rule in rules(name)
        for series in series_of(rule["expr"]) if series.name.startswith("pgfleet:")
    }
    assert used - recorded == set()


def test_every_recorded_name_tells_its_level() -> None:
    assert [
        rule["record"] for rule in rules("recording.yml")
        if not re.fullmatch(r"pgfleet:(inventory|node|cluster|environment):[a-z0-9_]+(:[a-z0-9_]+)?", rule["record"])
    ] == []
