"""Speaks about role grafana on a stand-in of its own, with an archive that is not Grafana and says so.

The tests follow one machine's life and run in the order in which they stand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.programs import pack_grafana
from helpers.standin import Run, StandIn

UNREACHABLE = "https://127.0.0.1:1"
FIRST_PASSWORD, SECOND_PASSWORD, THIRD_PASSWORD = "first-for-this-test", "second-for-this-test", "third-for-this-test"


class Life:
    """The machine, the two archives, and the inputs as they are now."""

    def __init__(self, machine: StandIn, folder: Path) -> None:
        self.machine = machine
        self.old, self.new = pack_grafana(folder, "1"), pack_grafana(folder, "2")
        self.inputs: dict[str, object] = {
            "grafana_source": "archive", "grafana_archive": str(self.old[0]), "grafana_archive_sha256": self.old[1],
            "grafana_admin_password": FIRST_PASSWORD, "grafana_prometheus_url": "http://127.0.0.1:9090"}
        self.runs: list[Run] = []

    def run(self, *arguments: str, **inputs: object) -> Run:
        self.inputs |= inputs
        self.runs.append(self.machine.play("grafana", *arguments, **self.inputs))
        return self.runs[-1]

    def health(self, port: int) -> dict[str, str]:
        answer: dict[str, str] = json.loads(self.machine.shell(
            f"python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:{port}/api/health\").read().decode())'"))
        return answer

    def pid(self) -> str:
        return self.machine.shell("systemctl show -P MainPID grafana-server")


@pytest.fixture(scope="module")
def life(standin: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Life:
    return Life(standin, tmp_path_factory.mktemp("archives"))


def test_required_repository_out_of_reach_is_an_error_in_one_sentence(life: Life) -> None:
    run = life.machine.play("grafana", **{**life.inputs, "grafana_source": "repository", "grafana_repository_url": UNREACHABLE})
    assert run.code != 0
    assert "127.0.0.1 cannot be reached from standin: set grafana_source to archive" in run.said
    assert run.changed == 0


def test_optional_repository_out_of_reach_is_a_notice(life: Life) -> None:
    run = life.machine.play("grafana", **{**life.inputs, "grafana_source": "repository", "grafana_required": False,
                                          "grafana_repository_url": UNREACHABLE})
    assert run.code == 0, run.output
    assert "NOTICE: no Grafana on standin: 127.0.0.1 cannot be reached from standin." in run.said
    assert run.changed == 0


def test_source_none_is_a_notice(life: Life) -> None:
    run = life.machine.play("grafana", **{**life.inputs, "grafana_source": "none"})
    assert run.code == 0, run.output
    assert "NOTICE: no Grafana on standin: grafana_source is none." in run.said
    assert run.changed == 0


def test_wrong_checksum_is_refused_before_anything_changes(life: Life) -> None:
    run = life.machine.play("grafana", **{**life.inputs, "grafana_archive_sha256": "0" * 64})
    assert run.code != 0
    assert f"has SHA-256 {life.old[1]} instead of {'0' * 64}: refused, nothing was changed" in run.said
    assert run.changed == 0
    assert life.machine.shell("ls -d /opt/grafana /etc/grafana 2>/dev/null || true") == ""


def test_check_mode_foretells_the_install(life: Life) -> None:
    run = life.run("--check")
    assert run.code == 0, run.output
    assert run.changed > 0
    assert life.machine.shell("ls -d /opt/grafana /etc/grafana 2>/dev/null || true") == ""


def test_archive_is_installed_and_answers(life: Life) -> None:
    run = life.run()
    assert run.code == 0, run.output
    assert life.health(3000) == {"database": "ok", "version": "not Grafana, 1"}
    assert life.machine.shell("readlink /opt/grafana/current") == life.old[1]
    assert life.machine.shell("systemctl is-enabled grafana-server") == "enabled"


def test_second_run_changes_nothing(life: Life) -> None:
    before = life.pid()
    run = life.run()
    assert (run.code, run.changed) == (0, 0), run.output
    assert life.pid() == before


def test_check_mode_changes_nothing(life: Life) -> None:
    run = life.run("--check", "--diff")
    assert (run.code, run.changed) == (0, 0), run.output


def test_service_is_confined(life: Life) -> None:
    report = life.machine.shell("systemd-analyze security grafana-server --no-pager | tail -n 1")
    assert float(report.split("grafana-server.service:")[1].split()[0]) <= 2.0, report


def test_service_runs_as_its_own_user_without_capabilities(life: Life) -> None:
    status = life.machine.shell(f"grep -E '^(Uid|CapBnd|NoNewPrivs)' /proc/{life.pid()}/status; id -u grafana")
    *lines, grafana = status.splitlines()
    assert {line.split()[0]: line.split()[1] for line in lines} == {
        "Uid:": grafana, "CapBnd:": "0000000000000000", "NoNewPrivs:": "1"}


def test_password_file_is_for_root_and_grafana_only(life: Life) -> None:
    assert life.machine.shell("stat -c '%U:%G %a' /etc/grafana/admin_password") == "root:grafana 640"
    assert life.machine.shell("cat /var/lib/grafana/password-at-start") == FIRST_PASSWORD


def test_secret_key_is_made_on_the_machine_and_kept(life: Life) -> None:
    assert life.machine.shell("stat -c '%U %a' /var/lib/grafana/secret_key") == "grafana 600"


def test_dashboards_and_data_source_are_provisioned(life: Life) -> None:
    assert life.machine.shell("ls /etc/grafana/dashboards").split() == ["fleet.json", "host.json", "node.json", "partitions.json", "routing.json"]
    assert "url: http://127.0.0.1:9090" in life.machine.shell("cat /etc/grafana/provisioning/datasources/pgfleet.yml")


def test_check_mode_foretells_a_change(life: Life) -> None:
    before = life.pid()
    run = life.machine.play("grafana", "--check", **{**life.inputs, "grafana_port": 3100, "grafana_admin_password": SECOND_PASSWORD})
    assert run.code == 0, run.output
    assert run.changed > 0
    assert life.pid() == before


def test_changed_setting_restarts_the_service(life: Life) -> None:
    before, key = life.pid(), life.machine.shell("cat /var/lib/grafana/secret_key")
    run = life.run(grafana_port=3100)
    assert run.code == 0, run.output
    assert life.pid() != before
    assert life.health(3100)["database"] == "ok"
    assert life.machine.shell("cat /var/lib/grafana/secret_key") == key


def test_a_restart_that_an_interrupted_run_still_owed_is_made(life: Life) -> None:
    before = life.pid()
    life.machine.shell("touch /etc/grafana/grafana.ini")
    run = life.run()
    assert run.code == 0, run.output
    assert life.pid() != before
    assert life.run().changed == 0


def test_a_new_password_that_grafana_did_not_take_is_told_again(life: Life) -> None:
    told = "/var/lib/grafana/password-set-by-cli"
    life.machine.shell(f"mkdir {told}")
    run = life.run(grafana_admin_password=THIRD_PASSWORD)
    life.machine.shell(f"rmdir {told}")
    assert run.code != 0
    run = life.run()
    assert run.code == 0, run.output
    assert life.machine.shell(f"cat {told}") == THIRD_PASSWORD
    assert life.machine.shell("cat /etc/grafana/admin_password") == THIRD_PASSWORD
    assert life.run().changed == 0


def test_changed_password_is_told_to_grafana(life: Life) -> None:
    run = life.run(grafana_admin_password=SECOND_PASSWORD)
    assert run.code == 0, run.output
    assert life.machine.shell("cat /var/lib/grafana/password-set-by-cli") == SECOND_PASSWORD


def test_new_archive_replaces_the_old_one_atomically(life: Life) -> None:
    before = life.pid()
    run = life.run(grafana_archive=str(life.new[0]), grafana_archive_sha256=life.new[1])
    assert run.code == 0, run.output
    assert life.health(3100)["version"] == "not Grafana, 2"
    assert life.pid() != before
    assert life.machine.shell("ls -A /opt/grafana").split() == sorted([life.old[1], life.new[1], "current"])


def test_a_version_that_an_interrupted_run_left_unstarted_is_started(life: Life) -> None:
    life.machine.shell(f"cd /opt/grafana; ln -s {life.old[1]} next; mv -T next current; touch -h -d '1 hour ago' current; systemctl restart grafana-server")
    life.machine.shell(f"cd /opt/grafana; ln -s {life.new[1]} next; mv -T next current")
    run = life.run()
    assert run.code == 0, run.output
    assert life.health(3100)["version"] == "not Grafana, 2"


def test_no_password_is_in_any_output_or_journal(life: Life) -> None:
    text = "\n".join(run.output for run in life.runs) + life.machine.shell("journalctl --no-pager --output=cat")
    assert FIRST_PASSWORD not in text
    assert SECOND_PASSWORD not in text
    assert THIRD_PASSWORD not in text
