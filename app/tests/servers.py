"""A primary and two replicas, real servers, in one container on loopback.

For tests (the fixtures of ``integration/conftest.py``) and for benchmarks (:func:`running`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pgroute import Router, Settings

IMAGE = os.environ.get("PGROUTE_TEST_IMAGE", "pgfleet/stand-in:trixie")
# Above the ports of outgoing connections; each worker of pytest-xdist has its own hundred.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
FIRST_PORT = int(os.environ.get("PGROUTE_TEST_FIRST_PORT", "62000")) + 100 * _WORKER
NAMES = ("pg1", "pg2", "pg3")
BIN = "/usr/lib/postgresql/17/bin"

_SETUP = r"""
set -eu
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf

install="apt-get install -y -qq --no-install-recommends postgresql-17"
{ $install || { apt-get update -qq && $install; }; } > /tmp/install.log 2>&1 \
    || { cat /tmp/install.log; exit 1; }
install -d -o postgres -m 0700 /srv/pg
su postgres -c "@BIN@/initdb -D /srv/pg/pg1 -U postgres --auth-local=trust \
    --auth-host=scram-sha-256 --locale=C.UTF-8 --no-sync" > /dev/null
cat >> /srv/pg/pg1/postgresql.conf <<'END'
listen_addresses = '@LISTEN@'
unix_socket_directories = '/srv/pg'
fsync = @FSYNC@
wal_retrieve_retry_interval = 100ms
wal_keep_size = 256MB
END
cat >> /srv/pg/pg1/pg_hba.conf <<'END'
host all all all scram-sha-256
END
"""

_SCHEMA = """
create role app_owner nologin;
create role app_rw login password 'rw-for-tests';
create role app_ro login password 'ro-for-tests';
grant pg_read_all_stats to app_ro;
create database app owner app_owner template template0;
\\c app
revoke all on schema public from public;
grant usage on schema public to app_rw, app_ro;
grant usage, create on schema public to app_owner;
alter default privileges for role app_owner in schema public
    grant select, insert, update, delete on tables to app_rw;
alter default privileges for role app_owner in schema public grant select on tables to app_ro;
set role app_owner;
create table tbl_users (id uuid primary key, first_name varchar(255) not null)
    partition by hash (id);
create table tbl_users_p0 partition of tbl_users for values with (modulus 4, remainder 0);
create table tbl_users_p1 partition of tbl_users for values with (modulus 4, remainder 1);
create table tbl_users_p2 partition of tbl_users for values with (modulus 4, remainder 2);
create table tbl_users_p3 partition of tbl_users for values with (modulus 4, remainder 3);
create table sales (order_id int, order_date date, order_amount numeric)
    partition by range (order_date);
create table sales_2023 partition of sales for values from ('2023-01-01') to ('2024-01-01');
create table sales_2024 partition of sales for values from ('2024-01-01') to ('2025-01-01');
create table sales_2025 partition of sales for values from ('2025-01-01') to ('2026-01-01');
"""


@dataclass(frozen=True)
class Servers:
    """Three servers that tests may freeze, stop, promote and bring back."""

    container: str
    passfile: Path

    def run(self, script: str, *, text: str | None = None) -> str:
        done = subprocess.run(
            ["docker", "exec", "-i", self.container, "bash", "-ec", script],
            input=text,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def sql(self, node: str, statements: str, *, database: str = "postgres") -> str:
        """Run SQL as the superuser over the server's socket."""
        return self.run(
            f"psql -X -q -At -v ON_ERROR_STOP=1 -h /srv/pg -p {port(node)} -U postgres {database}",
            text=statements,
        )

    def control(self, node: str, arguments: str) -> None:
        self.run(
            f"su postgres -c '{BIN}/pg_ctl -D /srv/pg/{node} -w -t 300 -s {arguments}' "
            f"|| {{ tail -n 5 /srv/pg/{node}.log; exit 1; }}"
        )

    def start(self, node: str) -> None:
        self.control(node, f'-l /srv/pg/{node}.log -o "-p {port(node)}" start')

    def stop(self, node: str) -> None:
        self.control(node, "-m immediate stop")

    def signal(self, node: str, name: str) -> None:
        """Send a signal to the postmaster and all its children."""
        # A postmaster that stands still has no further children meanwhile.
        self.run(
            f"p=$(head -1 /srv/pg/{node}/postmaster.pid); kill -STOP $p; "
            f"kill -{name} $p $(pgrep -P $p) || true"
        )

    def clone(self, node: str, *, upstream: str = "pg1") -> None:
        """Make ``node`` a fresh streaming replica of ``upstream``."""
        self.run(
            f"rm -rf /srv/pg/{node}; su postgres -c '{BIN}/pg_basebackup -h /srv/pg -U postgres "
            f"-p {port(upstream)} -D /srv/pg/{node} -R -c fast --no-sync'"
        )
        self.start(node)

    def make_anew(self) -> None:
        """A primary on timeline 1 and two replicas, whatever state the servers were left in."""
        self.run(
            "pkill -KILL -u postgres || true; "
            "while pgrep -u postgres > /dev/null; do sleep 0.05; done; "
            "rm -f /dev/shm/PostgreSQL.*"  # what the killed ones shared would fill it in the end
        )
        self.run("rm -rf /srv/pg/pg*; cp -a /srv/pg/new /srv/pg/pg1")
        self.start("pg1")
        for name in NAMES[1:]:
            self.clone(name)

    def settings(self, **options: object) -> Settings:
        values: dict[str, object] = {
            "nodes": ",".join(f"{name}=127.0.0.1:{port(name)}" for name in NAMES),
            "database": "app",
            "write_user": "app_rw",
            "read_user": "app_ro",
            "passfile": self.passfile,
            "refresh_interval_seconds": 0.1,
            "probe_timeout_seconds": 0.5,
        }
        return Settings.make(**(values | options))


def port(node: str) -> int:
    return FIRST_PORT + NAMES.index(node)


def eventually(condition: object, *, seconds: float = 60.0, what: str) -> None:
    """Wait until ``condition()`` holds; so long that no busy machine fails it."""
    assert callable(condition)
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def whole(router: Router) -> bool:
    """True when the router sees a primary and two healthy replicas."""
    return router.topology.primary is not None and len(router.topology.replicas) == 2


def why_not() -> str | None:
    """Why no server can be started here; None when one can."""
    if shutil.which("docker") is None:
        return "no docker client here: the servers run in a container"
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode == 0:
        return None
    if subprocess.run(["docker", "version"], capture_output=True).returncode == 0:
        return f"the image {IMAGE} is not built yet: ./fleet up builds it"
    return "no container engine answers: the servers run in a container"


@contextmanager
def running(
    secrets: Path,
    *,
    image: str = IMAGE,
    options: Sequence[str] = (),
    listen: str = "*",
    durable: bool = False,
) -> Iterator[Servers]:
    """Start the three servers, and remove them at the end. The passfile goes to ``secrets``.

    ``options`` go to the container engine; ``listen`` is where the servers listen in the container.
    ``durable``: they keep their data on this machine's disk, and a commit waits for it.
    """
    memory = [] if durable else ["--tmpfs=/srv:exec,mode=755"]
    setup = _SETUP.replace("@BIN@", BIN).replace("@LISTEN@", listen)
    setup = setup.replace("@FSYNC@", "on" if durable else "off")
    passfile = secrets / "passfile"
    passfile.touch(mode=0o600)
    passfile.write_text("*:*:app:app_rw:rw-for-tests\n*:*:app:app_ro:ro-for-tests\n")
    container = f"pgroute-test-{FIRST_PORT}"
    publish = [f"--publish=127.0.0.1:{port(n)}:{port(n)}" for n in NAMES]
    reaper = "while :; do sleep infinity & wait; done"  # of what a killed postmaster leaves behind
    run = ["docker", "run", "-d", "--rm", "--name", container, "--stop-signal=KILL", *publish]
    subprocess.run(
        [*run, *options, *memory, "--entrypoint=bash", image, "-c", reaper],
        check=True,
        capture_output=True,
    )
    try:
        found = Servers(container, passfile)
        found.run(setup)
        found.start("pg1")
        found.sql("pg1", _SCHEMA)
        found.control("pg1", "stop")
        found.run("mv /srv/pg/pg1 /srv/pg/new")
        found.make_anew()
        yield found
    finally:
        subprocess.run(["docker", "kill", container], check=True, capture_output=True)
        # The next servers need its name and ports. With much on the disk removing takes a while.
        eventually(lambda: not _exists(container), seconds=60, what=f"{container} is gone")


def _exists(container: str) -> bool:
    found = subprocess.run(["docker", "container", "inspect", container], capture_output=True)
    return found.returncode == 0
