"""The demonstration where the fleet or its tables are not as it expects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from pgroute import LoadFailed, new_key
from pgroute.cli.demo import demo as command
from pgroute.demo import Demo


class Router:
    """Keeps how it was asked for a read; its tables have no leaves."""

    topology = SimpleNamespace(primary=None, nodes=())

    def __init__(self) -> None:
        self.asked: list[Any] = []

    @contextmanager
    def read(self, *contract: str, **how: Any) -> Iterator[Any]:
        self.asked.append((contract, how))
        answer = SimpleNamespace(fetchall=list, fetchone=lambda: (0,))
        yield SimpleNamespace(node="pg1", execute=lambda *_: answer)

    def token(self) -> Any:
        raise InterruptedError


def made(router: Router) -> Demo:
    return Demo(cast("Any", router), 0, lambda _: None, Random(1))


def test_a_table_without_partitions_is_a_promise_that_does_not_hold() -> None:
    demo = made(Router())
    demo._spread(new_key(), cast("Any", None))
    assert demo.failed == ["tbl_users is divided into partitions"]


def test_users_are_counted_on_the_primary_though_nobody_knows_it_just_now() -> None:
    router = Router()
    with pytest.raises(InterruptedError):
        made(router)._many_users()
    assert router.asked == [(("strong",), {})]


def test_an_interrupted_load_says_what_is_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Demo) -> bool:
        told = LoadFailed("the load was interrupted: nothing was written", cast("Any", None))
        raise KeyboardInterrupt from told

    @contextmanager
    def opened(_: object) -> Iterator[Router]:
        yield Router()

    monkeypatch.setattr(Demo, "run", interrupted)
    for name, value in (("Router", opened), ("Settings", SimpleNamespace(from_environment=dict))):
        monkeypatch.setattr(f"pgroute.cli.demo.{name}", value)
    with pytest.raises(typer.Exit) as end:
        command(rows=1)
    assert end.value.exit_code == 130
    assert "nothing was written" in capsys.readouterr().err
