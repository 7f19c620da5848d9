"""What a run leaves behind that was killed between writing a file and the reload for it: the next one makes it."""

from typing import Any

import pytest

from helpers.fleet import Fleet
from helpers.monitoring import Alertmanager, Prometheus


@pytest.mark.parametrize(("role", "path"), [
    ("prometheus", "/etc/prometheus/rules/alerts.yml"),
    ("prometheus", "/etc/prometheus/prometheus.yml"),
    ("alertmanager", "/etc/prometheus/alertmanager.yml"),
])
def test_what_was_written_and_not_loaded_is_loaded_by_the_next_run(stand_ins: Any, fleet: Fleet, role: str, path: str) -> None:
    server = fleet.group("monitoring")[0]
    program = (Prometheus if role == "prometheus" else Alertmanager)(fleet, server)

    def loaded() -> float:
        return program.metric(f"{role}_config_last_reload_success_timestamp_seconds")

    stand_ins.run(server, f"touch {path}")
    assert float(stand_ins.run(server, f"stat --format %.Y {path}")) > loaded()
    code, said = stand_ins.play("monitoring.yml", "--tags", role)
    assert code == 0, said
    assert float(stand_ins.run(server, f"stat --format %.Y {path}")) < loaded()
    code, said = stand_ins.play("monitoring.yml", "--tags", role)
    assert code == 0, said
    assert said.count("changed=0") == said.count("changed=")
