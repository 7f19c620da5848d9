"""Nothing that must stay private, and nothing of one machine, is in the repository."""

import re
import subprocess

import pytest

from helpers.repository import ROOT, read_yaml, tracked_files

TEXT = [path for path in tracked_files() if not (ROOT / path).is_symlink() and b"\0" not in (ROOT / path).read_bytes()[:4096]]

SETTINGS = [
    path for path in TEXT
    if path.startswith(("group_vars/", "inventories/", "roles/", "playbooks/", "molecule/")) and path.endswith((".yml", ".yaml"))
]

# What a secret looks like in a file of settings, and what says where one comes from instead.
SECRET_NAME = re.compile(r"(password|passwd|passphrase|secret|token|api_?key|private_key)$", re.IGNORECASE)
NO_SECRET = re.compile(r"\{\{|^$|^/|^vault_|^SCRAM-SHA-256\$|^<.*>$")


def lines_with(pattern: str) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path in TEXT
        for number, line in enumerate((ROOT / path).read_text(errors="replace").splitlines(), 1)
        if re.search(pattern, line) and path != "tests/test_secrets.py"
    ]


def settings(content: object, name: str = "") -> list[tuple[str, str]]:
    """Every (name, text) of a YAML file, however deep."""
    if isinstance(content, dict):
        return [pair for key, value in content.items() for pair in settings(value, str(key))]
    if isinstance(content, list):
        return [pair for value in content for pair in settings(value, name)]
    return [(name, str(content))] if isinstance(content, (str, int)) and not isinstance(content, bool) else []


@pytest.mark.parametrize("path", SETTINGS)
def test_no_setting_holds_a_literal_secret(path: str) -> None:
    if (ROOT / path).read_text().startswith("$ANSIBLE_VAULT;"):
        return
    assert [
        name for name, value in settings(read_yaml(ROOT / path))
        if SECRET_NAME.search(name) and not NO_SECRET.search(value) and not value.isdigit()
        and not path.endswith("argument_specs.yml")
    ] == []


@pytest.mark.parametrize(
    "shape",
    [
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        r"SCRAM-SHA-256\$\d+:[A-Za-z0-9+/]{16,}",
        r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{30,}",
        r"postgres(ql)?://[^:/\s@{}]+:(?!(secret|password)@)[^@\s{}<$*]{6,}@",
        r"\bmd5[0-9a-f]{32}\b",
    ],
)
def test_no_file_holds_something_shaped_like_a_secret(shape: str) -> None:
    assert lines_with(shape) == []


@pytest.mark.parametrize("path", [".secrets/pgfleet/replicator", ".venv/bin/python", ".collections/x", ".cache/x", "app/dist/x.whl"])
def test_git_ignores_what_a_machine_generates(path: str) -> None:
    ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_nothing_generated_is_tracked() -> None:
    assert [path for path in tracked_files() if path.startswith((".secrets/", ".venv/", ".collections/", ".cache/"))] == []


def test_the_vault_is_encrypted_where_there_is_one() -> None:
    vaults = [path for path in TEXT if path.endswith(("vault.yml", "vault.yaml"))]
    assert [path for path in vaults if not (ROOT / path).read_text().startswith("$ANSIBLE_VAULT;")] == []


def test_no_package_registry_is_named_by_its_host() -> None:
    # In two halves, so that this file names none either.
    hosts = [("deb", "debian"), ("pypi", "org"), ("python", "hosted"), ("registry", "npmjs"), ("proxy", "golang"), ("crates", "io")]
    assert lines_with("|".join(rf"\b{first}\.?{second}\b" for first, second in hosts)) == []


def test_no_path_of_one_machine_is_written_down() -> None:
    assert lines_with(r"(^|[\s\"'=:(])/(work|farm|root)/|/tmp/(av|bash_jobs)\b|/home/(?!deploy\b)\w+/") == []


def test_a_rotated_password_reaches_the_client_right_after_the_server() -> None:
    tiers = [play["ansible.builtin.import_playbook"] for play in read_yaml(ROOT / "playbooks/site.yml")]
    assert tiers[tiers.index("tiers/postgres.yml") + 1] == "tiers/client.yml"
