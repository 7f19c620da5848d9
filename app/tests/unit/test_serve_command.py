"""``pgroute serve`` where its extra is not installed."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from pgroute import ConfigurationError
from pgroute.cli.serve import serve

_IMPORT = builtins.__import__


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_a_service_without_its_extra_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def without(name: str, *more: Any, **options: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return _IMPORT(name, *more, **options)

    for name in [name for name in sys.modules if name.startswith("pgroute.service")]:
        if name != "pgroute.service_file":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=rf'{missing}.* pip install "pgroute\[service\]"$'):
        serve()
