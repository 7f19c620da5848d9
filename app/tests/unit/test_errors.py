"""pgroute's errors travel between processes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from pgroute import errors
from pgroute.errors import PgrouteError
from pgroute.partitions.reports import Loaded, Outcome, Part

REPORT = Loaded("t", (Part({"t_p0": 2}, "pg1", Outcome.UNKNOWN),), (), 2, 0.5, None)
ARGUMENTS: dict[type[PgrouteError], tuple[Any, ...]] = {
    errors.DeadlineExceeded: ("pg1", 2.5),
    errors.CommitUnknown: ("pg1", 7, "connection lost"),
    errors.UncomputableKey: ("t", "id", "inet", "no hash of it is known"),
    errors.LoadFailed: ("stopped", REPORT),
}
WAYS: list[Callable[[Any], Any]] = [
    lambda error: pickle.loads(pickle.dumps(error)),  # noqa: S301 - our own
    copy.copy,
    copy.deepcopy,
]


def kinds(root: type[PgrouteError]) -> list[type[PgrouteError]]:
    """A class of ``errors.py`` and all below it."""
    return [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, root)
    ]


@pytest.mark.parametrize("way", WAYS, ids=["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("kind", kinds(PgrouteError))
def test_an_error_arrives_as_it_was(kind: type[PgrouteError], way: Callable[[Any], Any]) -> None:
    error = kind(*ARGUMENTS.get(kind, ("message",)))
    error.add_note("pgroute: on node pg1")
    arrived = way(error)
    assert type(arrived) is kind
    assert (str(arrived), arrived.args) == (str(error), error.args)
    assert vars(arrived) == vars(error)
