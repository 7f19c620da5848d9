"""Which packages count as installed."""

import fcntl
import os
from pathlib import Path

import pytest

from helpers.module_code import load_module

installed_packages = load_module("installed_packages")


def test_only_packages_that_are_unpacked_and_configured_count() -> None:
    listed = "ii \tacl\t2.3.2-2\nrc \told\t1.0\niU \thalf\t2.0\nii \tprometheus\t2.53.3+ds1-2\n"
    assert installed_packages.installed(listed) == {"acl": "2.3.2-2", "prometheus": "2.53.3+ds1-2"}


def test_what_an_installation_has_not_finished_is_told() -> None:
    listed = "ii \tacl\t2.3.2-2\nrc \told\t1.0\niU \tunpacked\t2.0\niF \thalf\t2.0\niW \tawaits\t2.0\nit \ttriggered\t2.0\nun \tnever\t\n"
    assert installed_packages.unfinished(listed) == ["awaits", "half", "triggered", "unpacked"]


@pytest.mark.parametrize("held", [True, False])
def test_nothing_counts_as_left_while_somebody_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    lock, policy = tmp_path / "lock-frontend", tmp_path / "policy-rc.d"
    policy.write_text(installed_packages.OURS)
    monkeypatch.setattr(installed_packages, "LOCK", str(lock))
    monkeypatch.setattr(installed_packages, "POLICY", str(policy))
    ready, done = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        # A lock of this kind is its process's own, so only another one stands in the way.
        with lock.open("w") as file:
            if held:
                fcntl.lockf(file, fcntl.LOCK_EX)
            os.write(ready[1], b".")
            os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        found = installed_packages.left_behind("iU \tunpacked\t2.0\n")
    finally:
        os.write(done[1], b".")
        os.waitpid(holder, 0)
    assert found == ({"unfinished": [], "policy_left": False} if held else {"unfinished": ["unpacked"], "policy_left": True})
