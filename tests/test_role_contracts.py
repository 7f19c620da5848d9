"""Every role says what it takes, takes what it says, and keeps to itself."""

import itertools
import re
from typing import Any

import pytest

from helpers.repository import ROOT, playbooks, read_yaml, role_files, roles, tasks, tracked_files

# What a role may tell the rest of a run, beside its own `__role_` names: read by group_vars/all/topology.yml.
PUBLISHED_PREFIXES = ("cluster_state_",)

# Names in group_vars that are no role's input.
SHARED_PREFIXES = ("cluster_", "topology_", "standin_", "secret_", "vault_", "ansible_")
SHARED_NAMES = {"node_address", "postgresql_repository"}

every_role = pytest.mark.parametrize("role", roles())


def defaults_of(role: str) -> dict[str, Any]:
    path = ROOT / "roles" / role / "defaults/main.yml"
    return read_yaml(path) or {} if path.exists() else {}


def options_of(role: str) -> dict[str, Any]:
    path = ROOT / "roles" / role / "meta/argument_specs.yml"
    if not path.exists():
        return {}
    return read_yaml(path)["argument_specs"]["main"].get("options") or {}


def fits(value: Any, kind: str) -> bool:
    if value is None or (isinstance(value, str) and "{{" in value):
        return True
    kinds: dict[str, type | tuple[type, ...]] = {
        "str": str, "path": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict, "raw": object,
    }
    return isinstance(value, kinds[kind]) and not (isinstance(value, bool) and kind in ("int", "float"))


def without_comments(path: str) -> list[tuple[int, str]]:
    lines = (ROOT / path).read_text().splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if not line.lstrip().startswith("#")]


def lines_with(pattern: str, paths: list[str]) -> list[str]:
    """Every line, comments aside, in which the pattern is found, as people quote them."""
    return [
        f"{path}:{number}: {line.strip()}"
        for path in paths
        for number, line in without_comments(path)
        if re.search(pattern, line)
    ]


def automation() -> list[str]:
    """Everything that Ansible runs, except the code that makes stand-ins."""
    return [
        path for path in tracked_files()
        if path.startswith(("roles/", "playbooks/")) and path.endswith((".yml", ".yaml", ".j2"))
    ]


@every_role
@pytest.mark.parametrize("part", ["README.md", "defaults/main.yml", "meta/main.yml", "meta/argument_specs.yml", "tasks/main.yml"])
def test_role_is_complete(role: str, part: str) -> None:
    assert (ROOT / "roles" / role / part).is_file()


@every_role
def test_role_readme_tells_what_a_second_run_does(role: str) -> None:
    readme = (ROOT / "roles" / role / "README.md").read_text().lower()
    assert "second run" in readme
    assert "```yaml" in readme, "no example"


@every_role
def test_role_documents_every_input_and_no_other(role: str) -> None:
    optional = {name for name, option in options_of(role).items() if not option.get("required")}
    assert optional == set(defaults_of(role))


@every_role
def test_role_shows_every_required_input_in_its_defaults(role: str) -> None:
    text = (ROOT / "roles" / role / "defaults/main.yml").read_text()
    required = [name for name, option in options_of(role).items() if option.get("required")]
    assert [name for name in required if not re.search(rf"^# ?{name}:", text, re.MULTILINE)] == []


@every_role
def test_role_documents_the_default_it_has(role: str) -> None:
    options = options_of(role)
    different = {
        name: (value, options[name].get("default"))
        for name, value in defaults_of(role).items()
        if name in options and options[name].get("default") != value
    }
    assert different == {}, "{input: (default, documented default)}"


@every_role
def test_role_default_is_of_the_documented_type(role: str) -> None:
    options = options_of(role)
    defaults = defaults_of(role)
    assert [name for name in defaults if name in options and not fits(defaults[name], options[name].get("type", "str"))] == []


@every_role
def test_role_describes_every_option(role: str) -> None:
    assert [name for name, option in options_of(role).items() if not option.get("description") or "type" not in option] == []


@every_role
def test_role_default_stands_under_a_sentence(role: str) -> None:
    blocks = (ROOT / "roles" / role / "defaults/main.yml").read_text().split("\n\n")
    bare = []
    for block in blocks:
        lines = [line for line in block.splitlines() if line != "---"]
        comment = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
        sentence = " ".join(line.lstrip("# ") for line in comment).strip()
        inputs = [line.partition(":")[0] for line in lines if re.match(r"\w+:", line)]
        if inputs and (len(sentence.split()) < 3 or not re.search(r"[.!?:)]$", sentence)):
            bare += inputs
    assert bare == []


@every_role
def test_role_input_begins_with_the_role_name(role: str) -> None:
    assert [name for name in defaults_of(role) if not name.startswith(f"{role}_")] == []


@every_role
def test_role_constant_begins_with_two_underscores_and_the_role_name(role: str) -> None:
    constants = [
        name
        for path in sorted((ROOT / "roles" / role / "vars").glob("*.yml"))
        for name in read_yaml(path) or {}
    ]
    assert [name for name in constants if not name.startswith(f"__{role}_")] == []


@every_role
def test_role_keeps_its_results_to_itself(role: str) -> None:
    names = []
    for path in role_files("tasks/*.yml") + role_files("handlers/*.yml"):
        if not path.startswith(f"roles/{role}/"):
            continue
        for task in tasks(read_yaml(ROOT / path)):
            facts = task.get("ansible.builtin.set_fact") or task.get("set_fact") or {}
            names += [name for name in [task.get("register"), *facts] if name and name != "cacheable"]
    assert [
        name for name in names
        if not name.startswith((f"__{role}_", *PUBLISHED_PREFIXES))
    ] == []


@every_role
def test_role_reads_no_input_of_another_role(role: str) -> None:
    foreign = {name for other in roles() if other != role for name in {**options_of(other), **defaults_of(other)}}
    read = {
        f"{path}: {word}"
        for path in automation()
        if path.startswith(f"roles/{role}/") and "/meta/" not in path
        for _, line in without_comments(path)
        for word in re.findall(r"\b[a-z]\w+", line)
        if word in foreign and f"- {word}" not in line
    }
    assert read == set()


@every_role
def test_role_receives_plain_values(role: str) -> None:
    own = [path for path in automation() if path.startswith(f"roles/{role}/")]
    outside = r"""(\{[{%]|when:|that:).*(?<![\w.'"])(?<!\| )((topology|standin|secret|vault)_|cluster_(?!state_))\w+\b(?!\()"""
    assert lines_with(outside, own) == []


@every_role
def test_role_with_a_secret_can_hide_and_show_it(role: str) -> None:
    options = options_of(role)
    secrets = [
        name for name, option in options.items()
        if re.search(r"(password|secret)$", name) and option.get("type") == "str"
    ]
    if secrets:
        assert options.get(f"{role}_no_log", {}).get("default") is True, f"{secrets} need {role}_no_log"
        assert [name for name in secrets if not options[name].get("no_log")] == []


@pytest.mark.parametrize("path", role_files("tasks/*.yml") + role_files("handlers/*.yml"))
def test_task_file_fits_on_two_screens(path: str) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", role_files("templates/**/*"))
def test_template_says_on_its_first_line_that_it_is_managed(path: str) -> None:
    if path.endswith(".json.j2"):
        return  # JSON has no comments
    first = next(line for line in (ROOT / path).read_text().splitlines() if not line.startswith(("#!", "#jinja2:")))
    assert re.search(r"ansible_managed|managed by", first, re.IGNORECASE)


def test_only_topology_reads_groups_and_hostvars() -> None:
    wiring = [path for path in tracked_files() if path.startswith("group_vars/") and path != "group_vars/all/topology.yml"]
    assert lines_with(r"\bhostvars\b|\bgroups\b\s*[\[.|]|\bgroup_names\b|in groups\b", automation() + wiring) == []


@pytest.mark.parametrize(
    "habit",
    [r"\bignore_errors\b", r"\bfailed_when: *\(?false", r"\bsleep\b", r"\bansible\.builtin\.pause\b", r"\bstate: *latest\b", r"\brun_once\b.*\bserial\b"],
)
def test_nothing_hides_a_failure_or_waits_blindly(habit: str) -> None:
    assert lines_with(habit, automation()) == []


@every_role
def test_role_pins_versions_and_binds_to_named_addresses(role: str) -> None:
    loose = {"latest", "0.0.0.0", "*", "::"}
    assert {name: value for name, value in defaults_of(role).items() if isinstance(value, str) and value.strip() in loose} == {}
    assert [
        name for name, value in defaults_of(role).items()
        if isinstance(value, str) and re.search(r"(^|[^\d])0\.0\.0\.0(:|$)", value)
    ] == []


@pytest.mark.parametrize("path", [path for path in tracked_files() if path.startswith("group_vars/") and path.endswith(".yml")])
def test_group_variable_belongs_to_a_role_or_is_shared(path: str) -> None:
    inputs = {name for role in roles() for name in options_of(role)}
    undeclared = [
        name for name in read_yaml(ROOT / path) or {}
        if name not in inputs and name not in SHARED_NAMES and not name.startswith(SHARED_PREFIXES)
    ]
    assert undeclared == []


@every_role
def test_role_is_used(role: str) -> None:
    assert lines_with(rf"\brole: {role}\b|\bname: {role}\b", playbooks()), "no playbook names it"


def test_routing_client_offers_every_policy_of_the_client() -> None:
    text = (ROOT / "app/src/pgroute/config.py").read_text()
    policies = re.search(r"policy: Literal\[([^]]*)\]", text)
    assert policies
    offered = options_of("routing_client")["routing_client_policy"]["choices"]
    assert offered == re.findall(r'"(\w+)"', policies[1])
