#!/usr/bin/python
"""Everything that must be known about one node before it is changed, read in a single call."""

from __future__ import annotations

import contextlib
import functools
import glob
import ipaddress
import json
import os
import re
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, BinaryIO, Callable, TypeVar

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: postgresql_node_state
short_description: Read a node's PostgreSQL data directory, running server, ports and free disk
description:
  - Reads only, so a check-mode run returns the same.
  - Needs root, because it looks into the data directory and asks the server over its socket as its own user.
options:
  data_directory:
    description: The data directory of the instance. Without it nothing is said about PostgreSQL.
    type: path
  version:
    description: The major version, to find the server's programs.
    type: str
    default: "17"
  port:
    description: The port of the instance, which names its socket.
    type: int
    default: 5432
  socket_directory:
    description: Where the socket is.
    type: path
    default: /var/run/postgresql
  user:
    description: The operating system user that owns the data directory and may connect over the socket.
    type: str
    default: postgres
  database:
    description: The database whose tables are counted. Without it none are.
    type: str
    default: ""
  ports:
    description: Ports to look up; for each one that is open, its owner is named.
    type: list
    elements: int
    default: []
  address:
    description: The address at which other nodes reach this one; without it nothing is said about it.
    type: str
    default: ""
  directories:
    description: Paths whose free space is wanted; for one that does not exist yet, its nearest parent answers.
    type: list
    elements: path
    default: []
  units:
    description: The systemd units whose state is wanted.
    type: list
    elements: str
    default: []
  prometheus_url:
    description: Where this node's Prometheus answers. Without it none is asked.
    type: str
    default: ""
  ready_urls:
    description: Addresses that answer 200 when all is well.
    type: list
    elements: str
    default: []
  wait_seconds:
    description: How long targets and addresses that are not well may take to become so.
    type: int
    default: 0
author: pgfleet
"""

EXAMPLES = r"""
- name: Read the state of a database node
  postgresql_node_state:
    data_directory: /var/lib/postgresql/17/main
    ports: [5432, 9187]
    directories: [/var/lib/postgresql]
"""

RETURN = r"""
data_directory_state:
  description: absent, empty, cluster (pg_control is valid), incomplete (it is not), or foreign (no trace of PostgreSQL).
  type: str
  returned: with data_directory
control:
  description: What pg_controldata says. Empty unless the state is cluster.
  type: dict
  returned: with data_directory
server:
  description: What the running server says. Empty when it does not answer.
  type: dict
  returned: with data_directory
ports:
  description: For each of the ports that is open, its owner's pid, process, and systemd unit.
  type: dict
  returned: always
units:
  description: For each of the units whether it is loaded, active, and started at boot.
  type: dict
  returned: always
prometheus:
  description: Its active targets and the exporters' own metrics, or why it could not be asked.
  type: dict
  returned: with prometheus_url
not_ready:
  description: For each of the addresses that does not answer 200, what it said.
  type: dict
  returned: always
own_addresses:
  description: The host's addresses, where the address asked for is none of them or only loopback; otherwise empty.
  type: list
  elements: str
  returned: always
address_is_loopback:
  description: Whether the address asked for is a name that stands for nothing but loopback addresses here.
  type: bool
  returned: always
is_mount_point:
  description: Whether the data directory is itself a mount point.
  type: bool
  returned: with data_directory
free_bytes:
  description: Free bytes for an ordinary user by directory; what an interrupted copy of ours left counts as free.
  type: dict
  returned: always
"""

Answer = TypeVar("Answer")

CONTROL_FIELDS = {
    "Database system identifier": "system_identifier",
    "Database cluster state": "state",
    "Latest checkpoint location": "checkpoint_lsn",
    "Latest checkpoint's TimeLineID": "checkpoint_timeline",
    "Minimum recovery ending location": "minimum_recovery_lsn",
    "Min recovery ending loc's timeline": "minimum_recovery_timeline",
    "Bytes per WAL segment": "wal_segment_bytes",
    "Data page checksum version": "checksum_version",
}
WAL_PAGE_BYTES = 8192
WAL_NAME = re.compile(r"[0-9A-F]{24}\Z")
PROBE_SECONDS = 10

# Every expression works on a primary and on a replica; one row, one JSON object.
SERVER_QUERY = """
set statement_timeout = '5s';
select json_build_object(
  'version', current_setting('server_version'),
  'in_recovery', pg_is_in_recovery(),
  'system_identifier', (select system_identifier::text from pg_control_system()),
  'checksums', current_setting('data_checksums') = 'on',
  'data_directory', current_setting('data_directory'),
  'timeline', (select greatest(c.timeline_id, r.min_recovery_end_timeline,
      (select received_tli from pg_stat_wal_receiver),
      case when not pg_is_in_recovery()
           then ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end)
    from pg_control_checkpoint() c, pg_control_recovery() r),
  'lsn', case when pg_is_in_recovery()
    then coalesce(pg_last_wal_replay_lsn(), '0/0') else pg_current_wal_lsn() end,
  'receive_lsn', pg_last_wal_receive_lsn(),
  'replay_age_seconds', case when pg_is_in_recovery()
    then round(extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::numeric, 1) end,
  'upstream', (select json_build_object('host', sender_host, 'port', sender_port,
      'slot', slot_name, 'status', status, 'lsn', latest_end_lsn) from pg_stat_wal_receiver),
  'primary_slot_name', current_setting('primary_slot_name'),
  'slots', (select coalesce(json_agg(json_build_object('name', slot_name, 'type', slot_type,
      'active', active, 'wal_status', wal_status, 'restart_lsn', restart_lsn) order by slot_name), '[]')
    from pg_replication_slots),
  'senders', (select coalesce(json_agg(json_build_object('name', application_name, 'address', client_addr,
      'state', state, 'sync_state', sync_state, 'replay_lsn', replay_lsn,
      'lag_bytes', case when not pg_is_in_recovery()
        then pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) end,
      'replay_lag_seconds', round(extract(epoch from replay_lag)::numeric, 3),
      'slot', (select slot_name from pg_replication_slots s where s.active_pid = r.pid))
      order by application_name), '[]') from pg_stat_replication r),
  'altered', (select coalesce(json_agg(distinct name order by name), '[]')
    from pg_file_settings where sourcefile like '%/postgresql.auto.conf' and name is not null),
  'pending_restart', (select coalesce(json_agg(name order by name), '[]')
    from pg_settings where pending_restart),
  'hba_errors', (select coalesce(json_agg(format('%s:%s: %s', file_name, line_number, error)
      order by file_name, line_number), '[]') from pg_hba_file_rules where error is not null));
"""

# What a copy of this server takes at least.
SIZE_QUERY = "set statement_timeout = '5s'; select sum(pg_database_size(oid))::bigint from pg_database;"

# What exporters say of themselves: an empty answer is a good one.
FAILING_QUERY = (
    "pg_exporter_last_scrape_error != 0 or pg_exporter_user_queries_load_error != 0 "
    "or pg_scrape_collector_success == 0 or node_scrape_collector_success == 0"
)

# Leaf partitions and the plain tables: an exact count of the smallest, as many as are read within moments; of the others
# the planner's figure, or none where it has none. A table that is locked is not waited for.
COUNT_ROWS = 1000000
COUNT_BYTES = 268435456
TABLES_QUERY = """
set statement_timeout = '5s';
set lock_timeout = '1s';
select coalesce(json_agg(json_build_object('parent', parent, 'table', leaf, 'estimated', estimated, 'rows',
    case when estimated then nullif(reltuples, -1)::bigint else
      (xpath('/row/n/text()', query_to_xml(format('select count(*) as n from %s', oid::regclass),
        false, true, '')))[1]::text::bigint end) order by parent, leaf), '[]')
from (select c.oid, c.relname as leaf, c.reltuples,
        c.reltuples > {rows} or sum(pg_relation_size(c.oid)) over (order by pg_relation_size(c.oid), c.oid) > {bytes} as estimated,
        coalesce(pg_partition_root(c.oid)::regclass::text, c.relname) as parent
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema') t;
""".replace("{rows}", str(COUNT_ROWS)).replace("{bytes}", str(COUNT_BYTES))


def run(module: AnsibleModule, argv: list[str], text: str | None = None) -> tuple[int, str, str]:
    """Return (exit code, output, error) of a program that must not hang."""
    try:
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False,
            env=dict(os.environ, LC_ALL="C", PGCONNECT_TIMEOUT="5"), cwd="/",
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"{os.path.basename(argv[0])} did not answer within {PROBE_SECONDS} s"
    except OSError as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def program(version: str, name: str) -> str:
    """Debian keeps the server's programs out of the path."""
    path = f"/usr/lib/postgresql/{version}/bin/{name}"
    return path if os.path.exists(path) else name


def parse_control(output: str) -> dict[str, Any]:
    """pg_controldata's lines as a dict of the fields that decide."""
    control: dict[str, Any] = {}
    for line in output.splitlines():
        name, colon, value = line.partition(":")
        if colon and name in CONTROL_FIELDS:
            control[CONTROL_FIELDS[name]] = value.strip()
    for name in ("checkpoint_timeline", "minimum_recovery_timeline", "wal_segment_bytes", "checksum_version"):
        if name in control:
            control[name] = int(control[name])
    return control


def wal_end(wal_directory: str, segment_bytes: int) -> tuple[str | None, int | None]:
    """The address of the last WAL page that was written, and its timeline, from the pages themselves.

    A recycled segment already has its new name while its pages still carry their old address:
    that is how the end is told. The granularity is one page of 8 kB.
    """
    def page_address(stream: BinaryIO, number: int) -> int | None:
        stream.seek(number * WAL_PAGE_BYTES)
        header = stream.read(16)
        if len(header) < 16:
            return None
        # xlp_magic, xlp_info, xlp_tli, xlp_pageaddr (access/xlog_internal.h), in the host's byte order
        return int(struct.unpack("=HHIQ", header)[3])

    try:
        names = [name for name in os.listdir(wal_directory) if WAL_NAME.match(name)]
    except OSError:
        return None, None
    per_log = 0x100000000 // segment_bytes
    for name in sorted(names, key=lambda n: (n[8:], n[:8]), reverse=True):
        start = (int(name[8:16], 16) * per_log + int(name[16:24], 16)) * segment_bytes
        with open(os.path.join(wal_directory, name), "rb") as stream:
            if page_address(stream, 0) != start:
                continue
            low, high = 0, segment_bytes // WAL_PAGE_BYTES - 1
            while low < high:
                middle = (low + high + 1) // 2
                if page_address(stream, middle) == start + middle * WAL_PAGE_BYTES:
                    low = middle
                else:
                    high = middle - 1
        end = start + low * WAL_PAGE_BYTES
        return f"{end >> 32:X}/{end & 0xFFFFFFFF:X}", int(name[:8], 16)
    return None, None


def read_history(wal_directory: str, timeline: int) -> list[tuple[int, str]]:
    """Where each earlier timeline was left, as the node's own history file tells: [[timeline, lsn], ...]."""
    history: list[tuple[int, str]] = []
    for line in read_text(os.path.join(wal_directory, f"{timeline:08X}.history")).splitlines():
        fields = line.split("#")[0].split()
        if len(fields) >= 2 and fields[0].isdigit():
            history.append((int(fields[0]), fields[1]))
    return history


def postmaster(data_directory: str) -> int | None:
    """The pid of the server that runs on this directory, found among the processes, or None.

    postmaster.pid is not asked: it survives a crash, and it is gone with a directory that was moved away.
    """
    wanted = os.path.normpath(data_directory)
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        argv = read_text(path).split("\0")
        if os.path.basename(argv[0]) not in ("postgres", "postmaster") or "-D" not in argv[:-1]:
            continue
        if os.path.normpath(argv[argv.index("-D") + 1]) == wanted:
            return int(path.split("/")[2])
    return None


def query(module: AnsibleModule, database: str, sql: str) -> tuple[Any, str]:
    """The JSON that one query returns over the socket, as the server's own user; (None, why) otherwise."""
    options = module.params
    code, output, error = run(module, [
        "runuser", "-u", options["user"], "--", "psql", "-XAtqw", "-v", "ON_ERROR_STOP=1",
        "-h", options["socket_directory"], "-p", str(options["port"]), "-d", database, "-f", "-"], sql)
    if code != 0:
        return None, " ".join((error or output).split())
    return json.loads(output), ""


def read_instance(module: AnsibleModule) -> dict[str, Any]:
    """The data directory, what its control file says, and the server that runs on it."""
    directory = module.params["data_directory"]
    wal_directory = os.path.join(directory, "pg_wal")
    found: dict[str, Any] = {"data_directory": directory, "control": {}, "server": {}, "server_error": "", "signals": [], "tables": []}
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        names = []
    except NotADirectoryError:
        names = [os.path.basename(directory)]
    if not names:
        found["data_directory_state"] = "empty" if os.path.isdir(directory) else "absent"
    else:
        code, output, error = run(module, [program(module.params["version"], "pg_controldata"), "-D", directory])
        control = parse_control(output)
        # A wrong checksum is only a warning to pg_controldata; to us the file is not valid.
        if code == 0 and control.get("system_identifier") and "WARNING" not in output + error:
            found["data_directory_state"] = "cluster"
            found["control"] = control
        elif code == 127:
            found["data_directory_state"] = "unreadable"
        else:
            trace = {"PG_VERSION", "base", "global", "pg_wal", "backup_label"}
            found["data_directory_state"] = "incomplete" if trace.intersection(names) else "foreign"
    if found["control"]:
        found["signals"] = [name for name in ("recovery.signal", "standby.signal") if name in names]
        end, end_timeline = wal_end(wal_directory, found["control"]["wal_segment_bytes"])
        found["wal_end_lsn"] = end
        found["timeline"] = max(found["control"]["checkpoint_timeline"],
                                found["control"].get("minimum_recovery_timeline") or 0, end_timeline or 0)
        found["history"] = read_history(wal_directory, found["timeline"])
    # Debian's place of what the role replication writes: the first beside a cluster, the second once this node has data of it.
    version, cluster = directory.rstrip("/").split("/")[-2:]
    for name, file in (("left_behind", "conf.d/20-replication.conf"), ("data_marker", "pgfleet-data")):
        path = f"/etc/postgresql/{version}/{cluster}/{file}"
        found[name] = path if os.path.exists(path) else ""
    found["is_mount_point"] = os.path.ismount(directory)
    found["pid"] = postmaster(directory)
    found["running"] = found["pid"] is not None
    if found["running"]:
        server, found["server_error"] = query(module, "postgres", SERVER_QUERY)
        found["server"] = server or {}
        if server:
            found["timeline"] = server["timeline"]
            found["history"] = read_history(wal_directory, server["timeline"])
        if server and not server["in_recovery"]:
            # None where it takes too long to add up.
            found["database_bytes"] = query(module, "postgres", SIZE_QUERY)[0]
        if server and not server["in_recovery"] and module.params["database"]:
            tables, found["tables_error"] = query(module, module.params["database"], TABLES_QUERY)
            found["tables"] = tables or []
    return found


def listening_sockets(ports: set[int]) -> dict[str, tuple[int, int]]:
    """{socket inode: (port, owner's uid)} of the wanted ports that somebody listens on."""
    inodes = {}
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read_text(path).splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == "0A" and port in ports:
                inodes[fields[9]] = (port, int(fields[7]))
    return inodes


def open_sockets(pid: int, uid: int, gid: int) -> list[str]:
    """The inodes of the sockets that a process has open, read as root, and if that may not, as its own user.

    A container's root may lack the right to look into another user's process; that user lacks it
    where the process has a user namespace of its own.
    """
    def read() -> list[str]:
        links = []
        for path in glob.glob(f"/proc/{pid}/fd/*"):
            # A file that was closed meanwhile is not the one that listens.
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(path))
        return [link[8:-1] for link in links if link.startswith("socket:[")]

    own = os.geteuid(), os.getegid()
    try:
        return read()
    except OSError:
        pass
    try:
        os.setegid(gid)
        os.seteuid(uid)
        return read()
    except OSError:
        return []
    finally:
        os.seteuid(own[0])
        os.setegid(own[1])


def port_owners(ports: list[int]) -> dict[str, dict[str, Any]]:
    """{port: {pid, process, unit}} of those of the ports that are open."""
    inodes = listening_sockets(set(ports))
    owners: dict[str, dict[str, Any]] = {str(port): {"pid": 0, "process": "an unknown process", "unit": ""} for port, _ in inodes.values()}
    users = {uid for _, uid in inodes.values()}
    # Ascending, so that of a server and its children the server is named.
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) if inodes else []:
        status = read_text(f"/proc/{pid}/status")
        ids = re.search(r"^Uid:\s+(\d+).*\nGid:\s+(\d+)", status, re.MULTILINE)
        if not ids or int(ids.group(1)) not in users:
            continue
        for inode in open_sockets(pid, int(ids.group(1)), int(ids.group(2))):
            if inode not in inodes or owners[str(inodes[inode][0])]["pid"]:
                continue
            argv = [word for word in read_text(f"/proc/{pid}/cmdline").split("\0") if word]
            units = re.findall(r"([^/\n]+)\.service", read_text(f"/proc/{pid}/cgroup"))
            owners[str(inodes[inode][0])] = {
                "pid": pid,
                "process": os.path.basename(argv[0]) if argv else read_text(f"/proc/{pid}/comm").strip(),
                "unit": units[-1] if units else "",
            }
    return owners


def listening_addresses(address: str) -> list[str]:
    """Of `address`, or what its name stands for, those on which a server of this host could listen."""
    found = []
    with contextlib.suppress(OSError):
        for family, kind, protocol, _, place in socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM):
            # A name may have an IPv6 address too, which this host does not use.
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as attempt:
                attempt.bind(place)
                found.append(str(place[0]))
    return found


def address_state(module: AnsibleModule, address: str) -> dict[str, Any]:
    """The host's own addresses where `address` is none of them, or is a name that leads to this host alone."""
    listening = listening_addresses(address) if address else []
    # As 127.0.1.1 of Debian's /etc/hosts does. Who gives an address instead of a name means it.
    loopback = bool(listening) and address not in listening and all(ipaddress.ip_address(found).is_loopback for found in listening)
    wrong = loopback or (bool(address) and not listening)
    return {"own_addresses": run(module, ["hostname", "-I"])[1].split() or ["none"] if wrong else [], "address_is_loopback": loopback}


def leftover(data_directory: str) -> tuple[int, int]:
    """(device, bytes) of what an interrupted copy left beside a data directory; the next one removes it before it begins."""
    root = data_directory.rstrip("/") + ".new"
    # As postgresql_data_directory marks what it makes; a directory of anybody else's stays, and so takes its room.
    if not os.path.isfile(os.path.join(root, "made-by-pgfleet")):
        return -1, 0
    size = 0
    for folder, _, names in os.walk(root):
        for name in names:
            # Another run may be at work here.
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return os.stat(os.path.dirname(root)).st_dev, size


def free_bytes(path: str, left: tuple[int, int]) -> int:
    """Free bytes for an ordinary user where this path is, or will be, with what an interrupted copy left on the same disk."""
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize + (left[1] if os.stat(path).st_dev == left[0] else 0)


def unit_states(module: AnsibleModule, units: list[str]) -> dict[str, dict[str, Any]]:
    """{unit: {load, active, enabled}} from one call."""
    states: dict[str, dict[str, Any]] = {}
    if not units:
        return states
    properties = "Id,LoadState,ActiveState,UnitFileState,WantedBy,RequiredBy"
    for unit in units:
        _, output, error = run(module, ["systemctl", "show", "--property", properties, unit + ".service"])
        found = dict(line.partition("=")[::2] for line in output.splitlines())
        states[unit] = {
            "load": found.get("LoadState", error.strip()),
            "active": found.get("ActiveState", "unknown"),
            # An instance may be wanted by a generator's link, of which UnitFileState knows nothing.
            "enabled": found.get("UnitFileState", "").startswith("enabled")
            or bool(found.get("WantedBy") or found.get("RequiredBy")),
        }
    return states


def fetch(url: str) -> tuple[int, str]:
    """(status, body); status is 0 and body the reason when nothing answered."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        return 0, str(getattr(error, "reason", error))


def until(deadline: float, ask: Callable[[], Answer], is_well: Callable[[Answer], bool]) -> Answer:
    """Ask until the answer is well or the deadline has passed; the last answer either way."""
    answer = ask()
    while not is_well(answer) and time.monotonic() < deadline:
        time.sleep(0.5)
        answer = ask()
    return answer


def read_prometheus(url: str, deadline: float) -> dict[str, Any]:
    """The targets, and which exporters say of themselves that they fail, as of the last scrape before the deadline."""
    def get(path: str) -> Any:
        status, body = fetch(url + path)
        if status != 200:
            raise LookupError(f"{url} answered {status}: {body[:200]}")
        return json.loads(body)["data"]

    def ask() -> dict[str, Any]:
        try:
            targets = get("/api/v1/targets?state=active")["activeTargets"]
            failing = get("/api/v1/query?" + urllib.parse.urlencode({"query": FAILING_QUERY}))["result"]
        except LookupError as error:
            return {"error": str(error), "targets": [], "failing": []}
        return {"error": "", "failing": [series["metric"] for series in failing], "targets": [
            {"job": target["labels"].get("job", ""), "instance": target["labels"].get("instance", ""),
             "health": target["health"], "error": target["lastError"]} for target in targets]}

    # One that has just started has no targets yet.
    return until(deadline, ask, lambda found: not found["error"] and not found["failing"]
                 and bool(found["targets"]) and all(target["health"] == "up" for target in found["targets"]))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "data_directory": {"type": "path"},
            "version": {"type": "str", "default": "17"},
            "port": {"type": "int", "default": 5432},
            "socket_directory": {"type": "path", "default": "/var/run/postgresql"},
            "user": {"type": "str", "default": "postgres"},
            "database": {"type": "str", "default": ""},
            "ports": {"type": "list", "elements": "int", "default": []},
            "address": {"type": "str", "default": ""},
            "directories": {"type": "list", "elements": "path", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "prometheus_url": {"type": "str", "default": ""},
            "ready_urls": {"type": "list", "elements": "str", "default": []},
            "wait_seconds": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    result = {
        "changed": False,
        "ports": port_owners(module.params["ports"]),
        **address_state(module, module.params["address"]),
    }
    left = leftover(module.params["data_directory"]) if module.params["data_directory"] else (-1, 0)
    result["free_bytes"] = {path: free_bytes(path, left) for path in module.params["directories"]}
    result["units"] = unit_states(module, module.params["units"])
    deadline = time.monotonic() + module.params["wait_seconds"]
    answers = {url: until(deadline, functools.partial(fetch, url), lambda answer: answer[0] == 200)
               for url in module.params["ready_urls"]}
    result["not_ready"] = {url: f"{status} {body[:200].strip()}"
                           for url, (status, body) in answers.items() if status != 200}
    if module.params["prometheus_url"]:
        result["prometheus"] = read_prometheus(module.params["prometheus_url"].rstrip("/"), deadline)
    if module.params["data_directory"]:
        result.update(read_instance(module))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
