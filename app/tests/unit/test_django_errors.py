"""Errors of routing as a Django project gets them."""

from __future__ import annotations

import pickle
from typing import Any

import psycopg
import pytest
from django.db.utils import OperationalError

from pgroute.errors import RoutingError
from pgroute.integrations.django.errors import Errors

from .test_errors import ARGUMENTS, kinds


class Wrapper:
    """A connection that is fine."""

    Database = psycopg

    @staticmethod
    def end_if_lost(error: BaseException) -> BaseException:
        return error


def told(error: RoutingError) -> Any:
    """What an error becomes on its way through Django's connection."""
    with pytest.raises(RoutingError) as raised, Errors(Wrapper()):
        raise error
    return raised.value


@pytest.mark.parametrize("kind", kinds(RoutingError))
def test_an_error_of_routing_is_django_s_too_and_can_be_pickled(kind: type[RoutingError]) -> None:
    error = kind(*ARGUMENTS.get(kind, ("message",)))
    error.add_note("pgroute: on node pg1")
    both = told(error)
    assert both is error
    assert isinstance(both, OperationalError)
    assert isinstance(both, kind)
    arrived = pickle.loads(pickle.dumps(both))  # noqa: S301 - our own
    assert type(arrived) is type(both)
    assert (str(arrived), vars(arrived)) == (str(both), vars(both))


@pytest.mark.parametrize("kind", kinds(RoutingError))
def test_an_error_is_of_the_class_of_its_name(kind: type[RoutingError]) -> None:
    both = type(told(kind(*ARGUMENTS.get(kind, ("message",)))))
    assert both is type(told(kind(*ARGUMENTS.get(kind, ("message",)))))
    assert both.__name__ == kind.__name__
    assert not issubclass(kind, OperationalError)  # pgroute's own is as it was
