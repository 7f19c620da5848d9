"""The dashboards in git, as Grafana reads them."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.repository import ROOT

FOLDER = ROOT / "roles/grafana/files/dashboards"


@dataclass(frozen=True)
class Query:
    """One query of one panel."""

    board: str
    panel: str
    ref: str
    expression: str

    def __str__(self) -> str:
        return f"{self.board}: {self.panel} ({self.ref})"

    def filled(self, **values: str) -> str:
        """The expression with its variables replaced: filled(cluster="pgfleet", node="pg1")."""
        text = self.expression
        for name, value in values.items():
            text = text.replace(f"${name}", value)
        return text


def names(folder: Path = FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.json"))


@functools.cache
def read(name: str) -> dict[str, Any]:
    board: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return board


def panels(name: str) -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in read(name)["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    return [
        Query(name, panel["title"], target["refId"], target["expr"])
        for name in names() for panel in panels(name) for target in panel["targets"]
    ]
