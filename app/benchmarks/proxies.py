"""PgBouncer and Pgpool-II beside the servers, in the same container."""

from __future__ import annotations

from dataclasses import dataclass

from tests.servers import FIRST_PORT, NAMES, Servers, port


@dataclass(frozen=True)
class Proxy:
    """A proxy that listens on ``port``."""

    name: str
    port: int


PGBOUNCER = Proxy("PgBouncer 1.24, transaction mode", FIRST_PORT + 3)
PGPOOL = Proxy("Pgpool-II 4.6, balancing per statement", FIRST_PORT + 4)

# Both reach the servers over their Unix sockets, where these trust local users: the proxies are
# measured at their best, and no password is written anywhere.
_INSTALL = """
set -- pgbouncer pgpool2
dpkg --status "$@" > /dev/null 2>&1 && exit 0
install="apt-get install -y -qq --no-install-recommends $*"
{ $install || { apt-get update -qq && $install; }; } > /tmp/install.log 2>&1 \
    || { cat /tmp/install.log; exit 1; }
"""
_PGBOUNCER = f"""
mkdir -p /srv/pgbouncer
cat > /srv/pgbouncer/pgbouncer.ini <<'END'
[databases]
app = host=/srv/pg port={port("pg2")} dbname=app user=app_ro

[pgbouncer]
listen_addr = @LISTEN@
listen_port = {PGBOUNCER.port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_prepared_statements = 100
log_connections = 0
log_disconnections = 0
END
chown -R postgres /srv/pgbouncer
su postgres -c 'setsid /usr/sbin/pgbouncer /srv/pgbouncer/pgbouncer.ini' \
    < /dev/null > /srv/pgbouncer/log 2>&1 &
"""
_BACKENDS = "\n".join(
    f"backend_hostname{at} = '/srv/pg'\nbackend_port{at} = {port(name)}\n"
    f"backend_weight{at} = {int(at > 0)}\nbackend_flag{at} = 'DISALLOW_TO_FAILOVER'"
    for at, name in enumerate(NAMES)
)
_PGPOOL = f"""
mkdir -p /srv/pgpool
cat > /srv/pgpool/pgpool.conf <<'END'
backend_clustering_mode = 'streaming_replication'
listen_addresses = '@LISTEN@'
port = {PGPOOL.port}
unix_socket_directories = '/srv/pgpool'
pcp_listen_addresses = ''
pcp_port = {PGPOOL.port + 1}
pcp_socket_dir = '/srv/pgpool'
pid_file_name = '/srv/pgpool/pgpool.pid'
logdir = '/srv/pgpool'
work_dir = '/srv/pgpool'
num_init_children = 8
load_balance_mode = on
statement_level_load_balance = on
sr_check_user = 'postgres'
sr_check_database = 'postgres'
sr_check_period = 10
health_check_period = 0
{_BACKENDS}
END
chown -R postgres /srv/pgpool
su postgres -c 'setsid /usr/sbin/pgpool -n -f /srv/pgpool/pgpool.conf -F /srv/pgpool/pcp.conf \
    -a /srv/pgpool/pool_hba.conf -k /srv/pgpool/key' < /dev/null > /srv/pgpool/log 2>&1 &
"""


def start_proxies(servers: Servers, *, listen: str = "127.0.0.1") -> list[Proxy]:
    """Install both in the container and start them in front of the servers."""
    servers.run(_INSTALL)
    for script in (_PGBOUNCER, _PGPOOL):
        servers.run(script.replace("@LISTEN@", listen))
    for proxy in (PGBOUNCER, PGPOOL):
        _wait_for(servers, proxy)
    return [PGBOUNCER, PGPOOL]


def _wait_for(servers: Servers, proxy: Proxy) -> None:
    psql = f"psql -X -h 127.0.0.1 -p {proxy.port} -U app_ro -w -Atc 'select 1' app"
    servers.run(
        f"for i in $(seq 100); do {psql} > /dev/null 2>&1 && exit 0; sleep 0.1; done; "
        f"{psql}; cat /srv/pg*/log; exit 1"
    )
