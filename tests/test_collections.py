"""The collections: what requirements.yml asks for is installed, and is what the bundling package carries."""

import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from helpers.repository import ROOT, read_yaml

WANTED = {collection["name"]: collection["version"] for collection in read_yaml(ROOT / "requirements.yml")["collections"]}
INSTALLED = ROOT / ".collections/ansible_collections"

each_collection = pytest.mark.parametrize("name", sorted(WANTED))


def manifest(name: str) -> dict[str, object]:
    information = json.loads((INSTALLED / name.replace(".", "/") / "MANIFEST.json").read_text())["collection_info"]
    assert isinstance(information, dict)
    return information


@each_collection
def test_required_collection_is_installed_at_its_version(name: str) -> None:
    assert manifest(name)["version"] == WANTED[name]


@each_collection
def test_what_a_collection_needs_is_required_too(name: str) -> None:
    assert set(manifest(name)["dependencies"] or {}) <= set(WANTED)  # type: ignore[call-overload]


def test_nothing_is_installed_that_is_not_required() -> None:
    assert {".".join(path.parts[-3:-1]) for path in INSTALLED.glob("*/*/MANIFEST.json")} == set(WANTED)


def test_the_bundle_is_pinned_by_hash_at_one_version() -> None:
    asked = re.findall(r"^ansible==(\S+)", (ROOT / "requirements-collections.in").read_text(), re.MULTILINE)
    pinned = (ROOT / "requirements-collections.txt").read_text()
    assert re.findall(r"^ansible==(\S+)", pinned, re.MULTILINE) == asked
    assert "--hash=sha256:" in pinned


def bundle(folder: Path, version: str) -> Path:
    """A stand-in for the bundling package: one collection in it."""
    wheel = folder / "bundle.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("ansible_collections/community/docker/MANIFEST.json", json.dumps({"collection_info": {"version": version}}))
    return wheel


def unpack(folder: Path, version: str) -> subprocess.CompletedProcess[str]:
    requirements = folder / "requirements.yml"
    requirements.write_text("collections: [{name: community.docker, version: 1.2.3}]")
    command = [sys.executable, str(ROOT / "lib/unpack_collections.py"), str(requirements), str(bundle(folder, version)), str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_bundle_with_the_required_version_is_unpacked(tmp_path: Path) -> None:
    assert unpack(tmp_path, "1.2.3").returncode == 0
    assert (tmp_path / "out/ansible_collections/community/docker/MANIFEST.json").is_file()


def test_a_bundle_with_another_version_is_refused(tmp_path: Path) -> None:
    refused = unpack(tmp_path, "1.2.4")
    assert refused.returncode != 0
    assert "carries community.docker 1.2.4, requirements.yml asks for 1.2.3" in refused.stderr


def test_requirements_are_installed_at_their_versions() -> None:
    wanted = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert {name: metadata.version(name).removeprefix("v") for name in wanted} == wanted


def test_every_requirement_is_in_the_lock() -> None:
    asked = re.findall(r"^([A-Za-z0-9-]+)", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert {name.lower() for name in asked} <= set(locked)


@pytest.mark.parametrize("path", ["requirements.in", "requirements.txt", "requirements-collections.txt"])
def test_no_requirement_names_a_host(path: str) -> None:
    assert "://" not in (ROOT / path).read_text()


def test_playbooks_use_no_collection_that_is_not_required() -> None:
    files = [path for folder in ("roles", "playbooks", "molecule") for path in Path(ROOT / folder).rglob("*.yml")]
    used = {match for path in files for match in re.findall(r"^\s*((?:community|ansible)\.(?!builtin)\w+)\.\w+:", path.read_text(), re.MULTILINE)}
    assert used <= set(WANTED)
