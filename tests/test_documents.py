"""What the documents point at exists, and every runbook page is about something that exists."""

import re
from pathlib import Path

import pytest

from helpers.repository import ROOT, playbooks, tracked_files

DOCUMENTS = [path for path in tracked_files() if path.endswith(".md")]


def outside_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(path: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", outside_code((ROOT / path).read_text()))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (ROOT / path).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.startswith("docs/runbooks/") and Path(path).stem != "README"])
def test_runbook_is_about_an_alert_or_an_operation(path: str) -> None:
    alerts = re.findall(r"^\s*- alert: (\w+)", (ROOT / "roles/prometheus/templates/etc/prometheus/rules/alerts.yml.j2").read_text(), re.MULTILINE)
    operations = [Path(playbook).stem for playbook in playbooks() if playbook.startswith("playbooks/ops/")]
    assert Path(path).stem in [*alerts, *operations]


def test_every_command_of_the_readme_names_a_file_that_exists() -> None:
    folders = "playbooks|molecule|inventories|roles|docs|app|tests|benchmarks|group_vars"
    named = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*[\w/])", (ROOT / "README.md").read_text())
    # What the reader is to write: the inventory of machines of their own.
    own = {"inventories/production.yml", "group_vars/env_production/vault.yml"}
    assert sorted({name for name in named if name not in own and not (ROOT / name).exists()}) == []
