"""Building pgroute for the hosts: what makes a new release, what does not, and what a failure says."""

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from helpers.plugins import load_plugin
from helpers.repository import ROOT

wheelhouse = load_plugin("modules/wheelhouse.py")


class Ended(Exception):
    """How a module ends; its result."""


class Module:
    """The part of AnsibleModule that the module uses, with a pip that writes what pip would."""

    def __init__(self, *, source: Path, cache: Path, check_mode: bool = False, fails_at: str = "", **more: str) -> None:
        self.params = {"source": str(source), "cache": str(cache), "python_version": "3.13",
                       "architecture": "x86_64", "installed": "", **more}
        self.check_mode = check_mode
        self.fails_at = fails_at
        self.commands: list[list[str]] = []

    def run_command(self, command: list[str]) -> tuple[int, str, str]:
        verb = command[5]
        self.commands.append(command)
        if verb == self.fails_at:
            return 1, "", "noise\nERROR: No matching distribution found for psycopg==3"
        option = {"download": "--dest", "wheel": "--wheel-dir", "install": "--target"}[verb]
        folder = Path(command[command.index(option) + 1])
        folder.mkdir(exist_ok=True)
        (folder / f"{verb}.txt").touch(mode=0o600)
        (folder / "bin").mkdir(exist_ok=True)
        return 0, "", ""

    def exit_json(self, **result: Any) -> None:
        raise Ended(result)

    def fail_json(self, **result: Any) -> None:
        raise Ended({"failed": True, **result})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "src/thing").mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock", "README.md", "src/thing/__init__.py"):
        (folder / name).write_text(name)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, source: Path, **options: Any) -> tuple[dict[str, Any], Module]:
    module = Module(source=source, cache=source.parent / "cache", **options)
    monkeypatch.setattr(wheelhouse, "AnsibleModule", lambda **_: module)
    with pytest.raises(Ended) as ended:
        wheelhouse.main()
    return ended.value.args[0], module


def test_first_build_makes_an_archive_owned_by_root(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    result, module = run(monkeypatch, source)
    assert result["changed"] is True
    with tarfile.open(result["archive"]) as tar:
        assert [(entry.name, entry.uid, entry.mode) for entry in tar] == [("install.txt", 0, 0o644)]
    assert [command[5] for command in module.commands] == ["download", "wheel", "install"]
    assert "--require-hashes" in module.commands[0]
    assert "--no-index" in module.commands[2]


def test_second_build_does_nothing(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    first, _ = run(monkeypatch, source)
    second, module = run(monkeypatch, source)
    assert second == {**first, "changed": False}
    assert module.commands == []


def test_nothing_is_built_for_a_host_that_has_it(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    name = wheelhouse.identifier(source, "3.13", "x86_64")
    result, module = run(monkeypatch, source, installed=name)
    assert (result["changed"], module.commands) == (False, [])
    assert not Path(result["archive"]).exists()


def test_check_mode_builds_nothing_and_says_that_it_would(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    result, module = run(monkeypatch, source, check_mode=True)
    assert (result["changed"], module.commands) == (True, [])
    assert not (source.parent / "cache").exists()


@pytest.mark.parametrize("verb", ["download", "wheel", "install"])
def test_a_failure_is_a_sentence_and_leaves_no_archive(monkeypatch: pytest.MonkeyPatch, source: Path, verb: str) -> None:
    result, _ = run(monkeypatch, source, fails_at=verb)
    assert result["failed"] is True
    assert "No matching distribution found" in result["msg"]
    assert "\n" not in result["msg"]
    assert [path.name for path in source.parent.glob("cache/*/*")] == ["lock"]


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock", "src/thing/__init__.py", "src/thing/new.py"])
def test_a_changed_file_is_a_new_release(source: Path, name: str) -> None:
    before = wheelhouse.identifier(source, "3.13", "x86_64")
    (source / name).write_text("changed")
    assert wheelhouse.identifier(source, "3.13", "x86_64") != before


def test_a_moved_line_is_a_new_release(source: Path) -> None:
    (source / "src/thing/a.py").write_text("x")
    (source / "src/thing/b.py").write_text("")
    before = wheelhouse.identifier(source, "3.13", "x86_64")
    (source / "src/thing/a.py").write_text("")
    (source / "src/thing/b.py").write_text("x")
    assert wheelhouse.identifier(source, "3.13", "x86_64") != before


@pytest.mark.parametrize("name", [
    "src/thing/__init__.cpython-313.pyc", "src/thing/__pycache__/__init__.cpython-313.pyc.140001", "tests/test_thing.py"])
def test_what_is_not_installed_is_no_new_release(source: Path, name: str) -> None:
    before = wheelhouse.identifier(source, "3.13", "x86_64")
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_text("")
    assert wheelhouse.identifier(source, "3.13", "x86_64") == before


def test_each_python_and_machine_has_its_own(source: Path) -> None:
    targets = [("3.13", "x86_64"), ("3.12", "x86_64"), ("3.13", "aarch64")]
    assert len({wheelhouse.identifier(source, *target) for target in targets}) == 3


def test_a_copy_of_the_repository_is_the_same_release(tmp_path: Path) -> None:
    # What other programs write beside it meanwhile, caches and such, is none of it.
    copy = tmp_path / "app"
    shutil.copytree(ROOT / "app/src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.lock", "README.md"):
        shutil.copy(ROOT / "app" / name, copy)
    assert wheelhouse.identifier(ROOT / "app", "3.13", "x86_64") == wheelhouse.identifier(copy, "3.13", "x86_64")


def test_only_the_newest_archives_are_kept(tmp_path: Path) -> None:
    for age in range(5):
        path = tmp_path / f"{age}.tar.gz"
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    wheelhouse.forget_old(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar.gz", "1.tar.gz", "2.tar.gz"]


def test_the_lock_names_no_index() -> None:
    lock = (ROOT / "app/requirements.lock").read_text()
    assert "://" not in lock
    assert all("--hash=sha256:" in block for block in lock.replace("\\\n", " ").splitlines() if "==" in block.split("#")[0])
