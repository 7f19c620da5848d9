"""Modules that run on hosts, loaded here for the sake of their pure functions."""

import sys
from types import ModuleType

from helpers.plugins import load_plugin


def load_module(name: str, *utilities: str) -> ModuleType:
    """The module at plugins/modules/<name>.py; `utilities` are those of plugins/module_utils that it imports."""
    for utility in utilities:
        sys.modules.setdefault(f"ansible.module_utils.{utility}", load_plugin(f"module_utils/{utility}.py"))
    return load_plugin(f"modules/{name}.py")
