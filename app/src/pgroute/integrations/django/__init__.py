"""Django over a router: reads on replicas, and every visitor sees what they wrote.

::

    PGROUTE = {"dsn": "postgresql://app@pg1,pg2,pg3/app"}        # fields of pgroute.Settings
    DATABASES = {
        "default": {"ENGINE": "pgroute.integrations.django", "NAME": "app"},
        "replica": {"ENGINE": "pgroute.integrations.django", "NAME": "app"},
    }
    DATABASE_ROUTERS = ["pgroute.integrations.django.routing.ReplicaRouter"]
    MIDDLEWARE = ["pgroute.integrations.django.routing.TokenMiddleware", ...]

"default" is the primary, "replica" a replica that meets the contract (``with reading(...)``, else
eventual). A request leases one connection to each when it first needs it, from the router's
pools, and gives it back at its end: leave ``CONN_MAX_AGE`` at 0. Once "default" is in use, the
request's reads go there too, so it sees what it wrote. The visitor's next requests carry a token
for it in a cookie or header, and read on servers that have it.

``operation_timeout_seconds`` counts anew from each exchange with the server: a command such as
``migrate`` may go on for hours, no statement of it may, and a connection that nobody uses for so
long is cut. With ``reading(timeout=...)`` the time is that of the lease.

Errors of routing are pgroute's own and Django's OperationalError as well; errors of the server are
Django's. A COMMIT whose answer is lost is resolved, or raises CommitUnknown.

``NAME`` says which database Django believes to be on; that the router leads to another one is an
error, before anything is done there. Tests run on a database of their own, which is there already,
with the privileges that both users need, and which settings for tests lead the router to::

    from project.settings import *

    PGROUTE = {"dsn": "postgresql://app@pg1,pg2,pg3/test_app", "operation_timeout_seconds": 3600}
    DATABASES["replica"]["TEST"] = {"MIRROR": "default"}        # else it would be flushed, too

Run them with ``manage.py test --settings=project.test_settings --keepdb`` in one process. A
TestCase is one transaction on the primary, and idle while a test does other things, hence the
longer timeout. A TransactionTestCase commits and reads on replicas as a visitor does: it wants
``databases = {"default", "replica"}``.

:mod:`~pgroute.integrations.django.routing` is what a project names, ``base`` is what Django loads.
"""
