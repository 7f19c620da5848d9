"""A small Django project over the router; whoever imports it has Django set up."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import django
from django.conf import settings
from django.db import connections, models
from django.test import override_settings

from pgroute import Settings
from pgroute.integrations.django.leases import close_router, router
from tests.servers import eventually, whole

_DATABASE = {"ENGINE": "pgroute.integrations.django", "NAME": "app"}
settings.configure(
    ALLOWED_HOSTS=["testserver"],
    DATABASES={"default": {**_DATABASE}, "replica": {**_DATABASE}},
    DATABASE_ROUTERS=["pgroute.integrations.django.routing.ReplicaRouter"],
    MIDDLEWARE=["pgroute.integrations.django.routing.TokenMiddleware"],
    TIME_ZONE="Europe/Berlin",
    USE_TZ=True,
)
django.setup()


class User(models.Model):  # type: ignore[misc]
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    first_name = models.CharField(max_length=255)

    class Meta:
        app_label = "people"
        db_table = "tbl_users"
        managed = False


def node(alias: str) -> str | None:
    """Where this thread's connection leads to, None when it has none."""
    connection = connections[alias].connection
    return None if connection is None else str(connection.node)


@contextmanager
def project(servers: Settings, urls: str) -> Iterator[None]:
    """The project on these servers, with the views of the module ``urls``."""
    with override_settings(PGROUTE=servers, ROOT_URLCONF=urls):
        eventually(lambda: whole(router()), what="a whole fleet")
        eventually(_ages_are_known, what="the positions of replicas are known")
        try:
            yield
        finally:
            connections.close_all()
            close_router()


def _ages_are_known() -> bool:
    ours = router()
    return None not in [ours.fleet.ledger.staleness(n, ours.clock()) for n in ("pg2", "pg3")]
