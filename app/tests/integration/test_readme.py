"""The README's programs, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pgroute import new_key
from tests.servers import Servers

pytestmark = pytest.mark.integration

README = Path(__file__).parents[2] / "README.md"
PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
WHERE = '"postgresql://app@pg1,pg2,pg3/app"'  # the only line that is of another fleet


@pytest.mark.parametrize("program", PROGRAMS, ids=["threads", "asyncio"])
def test_a_program_of_the_readme_runs(
    servers: Servers, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.count(WHERE) == 1
    moved: list[Any] = []
    names = {"where": servers.settings(), "key": new_key(), "move_money": moved.append}
    exec(program.replace(WHERE, "where"), names)  # noqa: S102 - it is ours
    told = capsys.readouterr().out
    if "asyncio" in program:
        assert "'Bob'" in told
        assert "pgroute_routed_total" in told
    else:
        assert re.fullmatch(r"pg\d \(\d+,\)\n", told)
        assert len(moved) == 1
