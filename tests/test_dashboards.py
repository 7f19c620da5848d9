"""Every dashboard is what its generator writes, explains itself, and asks for nothing that nobody records."""

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import boards
from helpers.promql import series_of
from helpers.promtool import promtool
from helpers.repository import ROOT

SOURCE = {"type": "prometheus", "uid": "prometheus"}
# What Prometheus itself records about alerts.
ALERTS = "ALERTS"

every_board = pytest.mark.parametrize("name", boards.names())
every_panel = pytest.mark.parametrize(
    ("name", "panel"),
    [pytest.param(name, panel, id=f"{name}-{panel['title']}") for name in boards.names() for panel in boards.panels(name)])


@functools.cache
def recorded() -> set[str]:
    rules = (ROOT / "roles/prometheus/templates/etc/prometheus/rules/recording.yml.j2").read_text()
    return set(re.findall(r"- record: (\S+)", rules))


@functools.cache
def variables(name: str) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in boards.read(name)["templating"]["list"]}


def test_boards_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-B", str(ROOT / "roles/grafana/dashboards/generate.py"), str(tmp_path)], check=True)
    assert boards.names(tmp_path) == boards.names()
    different = [name for name in boards.names() if (tmp_path / f"{name}.json").read_text() != (boards.FOLDER / f"{name}.json").read_text()]
    assert different == [], "run: python roles/grafana/dashboards/generate.py"


def test_role_installs_every_board() -> None:
    constants = (ROOT / "roles/grafana/vars/main.yml").read_text()
    assert re.findall(r"path: /etc/grafana/dashboards/(\w+)\.json", constants) == boards.names()


def test_no_two_boards_share_a_name() -> None:
    uids = [boards.read(name)["uid"] for name in boards.names()]
    assert len(uids) == len(set(uids))


@every_board
def test_panels_of_a_board_have_names_and_numbers_of_their_own(name: str) -> None:
    numbers = [panel["id"] for panel in boards.read(name)["panels"]]
    titles = [panel["title"] for panel in boards.panels(name)]
    assert len(numbers) == len(set(numbers))
    assert len(titles) == len(set(titles))


@every_panel
def test_panel_explains_itself(name: str, panel: dict[str, Any]) -> None:
    assert re.search(r"\w.*\.$", panel.get("description", "")), "a description is a sentence"


@every_panel
def test_panel_has_a_unit(name: str, panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"].get("unit")


@every_panel
def test_panel_and_its_queries_name_the_provisioned_data_source(name: str, panel: dict[str, Any]) -> None:
    assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [SOURCE] * (len(panel["targets"]) + 1)


@every_panel
def test_thresholds_of_a_panel_rise(name: str, panel: dict[str, Any]) -> None:
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    assert [step["value"] for step in steps[:1]] in ([], [None])
    assert [step["value"] for step in steps[1:]] == sorted({step["value"] for step in steps[1:]})


def test_provisioned_data_source_is_the_one_that_panels_name() -> None:
    template = (ROOT / "roles/grafana/templates/etc/grafana/provisioning/datasources/pgfleet.yml.j2").read_text()
    assert f"uid: {SOURCE['uid']}\n" in template


@pytest.mark.parametrize("query", boards.queries(), ids=str)
def test_query_reads_recorded_names_only(query: boards.Query) -> None:
    unknown = [str(series) for series in series_of(query.expression) if series.name not in recorded() | {ALERTS}]
    assert unknown == [], "record it in roles/prometheus first"


@pytest.mark.parametrize("query", boards.queries(), ids=str)
def test_every_selector_of_a_query_names_the_cluster(query: boards.Query) -> None:
    joined_by_instance = re.sub(r"and on \(instance\) [\w:]+", "", query.expression)
    assert [str(series) for series in series_of(joined_by_instance) if 'cluster="$cluster"' not in series.matchers] == []


@pytest.mark.parametrize("query", boards.queries(), ids=str)
def test_query_uses_variables_that_its_board_has(query: boards.Query) -> None:
    assert set(re.findall(r"\$(\w+)", query.expression)) <= set(variables(query.board))


@every_board
def test_variable_reads_recorded_names_only(name: str) -> None:
    asked = [variable["query"] for variable in variables(name).values()]
    selectors = [re.fullmatch(r"label_values\((.*), \w+\)", text) for text in asked]
    assert [series.name for found in selectors if found for series in series_of(found[1]) if series.name not in recorded()] == []
    assert all(selectors)


@every_board
def test_link_leads_to_a_board_and_a_variable_that_exist(name: str) -> None:
    uids = {boards.read(other)["uid"]: other for other in boards.names()}
    for uid, variable in re.findall(r'"/d/([\w-]+)\?var-(\w+)=', json.dumps(boards.read(name))):
        assert uid in uids
        assert variable in variables(uids[uid])


@pytest.mark.parametrize(("start", "end"), [("fleet", "node"), ("node", "host"), ("routing", "node")])
def test_boards_can_be_drilled_down(start: str, end: str) -> None:
    assert f'"/d/{boards.read(end)["uid"]}?var-node=' in json.dumps(boards.read(start))


def test_every_query_parses() -> None:
    filled = sorted({query.filled(cluster="pgfleet", node="pg1", table=".*", client=".*") for query in boards.queries()})
    rules = {"groups": [{"name": "boards", "rules": [
        {"record": f"query_{number}", "expr": expression} for number, expression in enumerate(filled)]}]}
    code, output = promtool("check", "rules", "rules.yml", files={"rules.yml": json.dumps(rules)})
    assert code == 0, output
