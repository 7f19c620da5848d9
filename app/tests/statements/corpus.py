"""The corpus: statements, and what must become of them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMA = HERE / "schema.sql"

_FOUND: dict[str, Any] = tomllib.loads((HERE / "corpus.toml").read_text())

READS: list[str] = _FOUND["reads"]
EFFECTS: list[str] = _FOUND["effects"]
CAUTIOUS: list[str] = _FOUND["cautious"]
ERRORS: list[str] = _FOUND["errors"]
PARAMETERS: dict[str, list[Any] | dict[str, Any]] = _FOUND["parameters"]
