"""Starting a Python process with a router's settings."""

from __future__ import annotations

import os
from pathlib import Path

from pgroute import Settings

APP = Path(__file__).resolve().parents[1]


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process that has these settings and finds the same sources."""
    given = {f"PGROUTE_{n.upper()}": str(getattr(settings, n)) for n in settings.model_fields_set}
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PGROUTE_")}
    return {**ours, "PYTHONPATH": f"{APP / 'src'}{os.pathsep}{APP}", **given}
