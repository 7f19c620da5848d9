"""Speaks about role base on a stand-in of its own, with a mirror of one package that the test makes and signs itself.

The tests follow one machine's life and run in the order in which they stand.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.repository import ROOT
from helpers.standin import Run, StandIn

MIRROR = "/srv/mirror"
POLICY = "/usr/sbin/policy-rc.d"
SOURCE = "/etc/apt/sources.list.d/pgfleet-postgresql.sources"
CONTROL = """\
Package: {name}
Version: 1
Architecture: all
Maintainer: the tests
Description: a package for this test
"""


class Signer:
    """A key of the test's own."""

    def __init__(self, home: Path) -> None:
        self.home, self.key = home, home / "key.asc"
        home.mkdir(mode=0o700)
        self.gpg("--quick-generate-key", "pgfleet test", "rsa2048", "sign", "never")
        self.key.write_bytes(self.gpg("--armor", "--export"))

    def gpg(self, *arguments: str, text: str = "") -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--passphrase", "", "--pinentry-mode", "loopback", *arguments]
        return subprocess.run(command, input=text.encode(), check=True, capture_output=True).stdout


class Mirror:
    """A machine that knows no archive, and a folder on it that is one: suite fleet, component main."""

    def __init__(self, machine: StandIn, signer: Signer) -> None:
        self.machine, self.signer = machine, signer
        machine.shell("mv /etc/apt/sources.list /etc/apt/sources.list.kept")

    def offer(self, name: str) -> None:
        index = f"{MIRROR}/dists/fleet/main/binary-$(dpkg --print-architecture)"
        self.machine.shell(
            f"rm -rf {MIRROR} /tmp/p; mkdir -p {index} /tmp/p/DEBIAN; printf '{CONTROL.format(name=name)}' > /tmp/p/DEBIAN/control;"
            f"dpkg-deb --build /tmp/p {MIRROR}/{name}.deb; cd {MIRROR};"
            f"(dpkg-deb --field {name}.deb; echo Filename: {name}.deb; stat -c 'Size: %s' {name}.deb;"
            f" echo SHA256: $(sha256sum < {name}.deb | cut -d' ' -f1)) > {index}/Packages")
        path = self.machine.shell(f"cd {MIRROR}/dists/fleet; ls main/*/Packages")
        packages = self.machine.shell(f"cat {MIRROR}/dists/fleet/{path}") + "\n"
        release = ("Suite: fleet\nCodename: fleet\nComponents: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
                   f" {hashlib.sha256(packages.encode()).hexdigest()} {len(packages)} {path}\n")
        signed = self.signer.gpg("--clearsign", text=release).decode()
        self.machine.shell(f"cat > {MIRROR}/dists/fleet/InRelease <<'END'\n{signed}END")

    def install(self, *packages: str, key: Path | None = None, check: bool = False, **inputs: object) -> Run:
        return self.machine.play("base", *(["--check"] if check else []), **{
            "base_repository": "custom", "base_custom_uri": f"file://{MIRROR}", "base_custom_suite": "fleet",
            "base_custom_key_file": str(key or self.signer.key), "base_packages": list(packages), **inputs})


@pytest.fixture(scope="module")
def mirror(standin: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    if not shutil.which("gpg"):
        pytest.skip("gpg, which signs the mirror of this test, is not installed")
    return Mirror(standin, Signer(tmp_path_factory.mktemp("signer") / "home"))


def test_a_check_of_a_host_without_its_packages_ends_with_one_sentence(standin: StandIn) -> None:
    run = standin.play("base", "--check", base_packages=["pgfleet-first", "python3"])
    assert run.code != 0
    assert "standin does not have pgfleet-first yet" in run.said
    assert "run this without --check" in run.said
    assert run.output.count("[ERROR]") == 1


def test_a_mirror_without_an_address_is_told(mirror: Mirror) -> None:
    run = mirror.install("pgfleet-first", base_custom_uri="")
    assert run.code != 0
    assert "postgresql_repository is custom, but base_custom_uri" in run.said


def test_a_mirror_with_another_key_is_refused(mirror: Mirror) -> None:
    mirror.offer("pgfleet-first")
    run = mirror.install("pgfleet-first", key=ROOT / "roles/base/files/etc/apt/keyrings/postgresql.asc")
    assert run.code != 0
    assert f"file:{MIRROR} fleet InRelease" in run.said
    assert "pgfleet-first" not in mirror.machine.shell("dpkg-query --show --showformat '${Package} '")


def test_a_package_comes_from_the_mirror(mirror: Mirror) -> None:
    run = mirror.install("pgfleet-first")
    assert run.code == 0, run.output
    assert f"file:{MIRROR} fleet/main" in mirror.machine.shell("apt-cache policy pgfleet-first")


def test_a_second_run_changes_nothing(mirror: Mirror) -> None:
    run = mirror.install("pgfleet-first")
    assert (run.code, run.changed) == (0, 0), run.output


def test_fresh_lists_without_a_package_are_fetched_again(mirror: Mirror) -> None:
    mirror.offer("pgfleet-second")
    run = mirror.install("pgfleet-second")
    assert run.code == 0, run.output


def test_what_a_killed_installation_left_is_put_right(mirror: Mirror) -> None:
    mirror.machine.shell(f"dpkg --unpack {MIRROR}/pgfleet-second.deb; printf '#!/bin/sh\\nexit 101\\n' > {POLICY}; chmod 755 {POLICY}")
    assert mirror.machine.shell("dpkg-query --show --showformat '${db:Status-Abbrev}' pgfleet-second") == "iU"
    told = mirror.install("pgfleet-second", check=True)
    assert "standin does not have pgfleet-second yet" in told.said
    assert mirror.machine.shell("dpkg-query --show --showformat '${db:Status-Abbrev}' pgfleet-second") == "iU"
    assert mirror.machine.shell(f"ls {POLICY}") == POLICY
    run = mirror.install("pgfleet-second")
    assert run.code == 0, run.output
    assert mirror.machine.shell("dpkg-query --show --showformat '${db:Status-Abbrev}' pgfleet-second") == "ii"
    assert mirror.machine.shell(f"ls {POLICY} || true") == ""
    assert mirror.install("pgfleet-second").changed == 0


def test_what_does_not_concern_this_node_is_left_to_those_who_broke_it(mirror: Mirror) -> None:
    # Its script fails, as that of any package may that this fleet never asked for.
    mirror.machine.shell("rm -rf /tmp/b; mkdir -p /tmp/b/DEBIAN; printf '" + CONTROL.format(name="pgfleet-broken") + "' > /tmp/b/DEBIAN/control;"
                         "printf '#!/bin/sh\\nexit 1\\n' > /tmp/b/DEBIAN/postinst; chmod 755 /tmp/b/DEBIAN/postinst;"
                         "dpkg-deb --build /tmp/b /tmp/broken.deb; dpkg --install /tmp/broken.deb || true")
    assert mirror.machine.shell("dpkg-query --show --showformat '${db:Status-Abbrev}' pgfleet-broken") == "iF"
    run = mirror.install("pgfleet-second")
    mirror.machine.shell("dpkg --purge pgfleet-broken")
    assert (run.code, run.changed) == (0, 0), run.output


def test_somebody_elses_rule_about_services_stays(mirror: Mirror) -> None:
    mirror.machine.shell(f"printf '#!/bin/sh\\n# ours\\nexit 101\\n' > {POLICY}")
    run = mirror.install("pgfleet-second")
    assert (run.code, run.changed) == (0, 0), run.output
    mirror.machine.shell(f"rm {POLICY}")


def test_the_key_of_the_postgresql_project_is_the_one_that_debian_ships(mirror: Mirror) -> None:
    assert mirror.machine.play("base", base_repository="pgdg", base_packages=[]).code == 0
    shown = mirror.signer.gpg("--show-keys", "--with-colons", str(ROOT / "roles/base/files/etc/apt/keyrings/postgresql.asc")).decode()
    assert "fpr:::::::::B97B0AFCAA1A47F044F244A07FCC7D46ACCC4CF8:" in shown
    assert mirror.machine.shell("cat /etc/apt/keyrings/postgresql.asc").startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    assert mirror.machine.shell(f"cat {SOURCE}").splitlines()[2:] == [
        "Types: deb", "URIs: https://apt.postgresql.org/pub/repos/apt", "Suites: trixie-pgdg", "Components: main",
        "Signed-By: /etc/apt/keyrings/postgresql.asc"]
