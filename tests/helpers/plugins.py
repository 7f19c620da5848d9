"""Ansible loads plugins by file, so the tests that look at their pure functions do the same."""

import importlib.util
from types import ModuleType

from helpers.repository import ROOT


def load_plugin(path: str) -> ModuleType:
    """The plugin at plugins/<path>, as a module."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), ROOT / "plugins" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
