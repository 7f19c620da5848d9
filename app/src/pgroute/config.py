"""Where the servers are and which limits hold: from ``PGROUTE_*`` or from a DSN.

Passwords are never part of it: libpq reads them from the passfile.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pgroute.errors import ConfigurationError
from pgroute.service_file import service_of

_PREFIX = "PGROUTE_"
_DEFAULT_PORT = 5432
_NAME_LENGTH = 63  # of an application; the server cuts longer ones
_MOST_WEIGHT = 1_000_000
_OWN_BUSINESS = {
    "target_session_attrs",
    "load_balance_hosts",
    "options",
    "connect_timeout",
    "hostaddr",
}


@dataclass(frozen=True, slots=True)
class Node:
    """One server: the name it is spoken of by, and where it is."""

    name: str
    host: str
    port: int


class Settings(BaseModel):
    """Everything that can be set. Sizes in bytes, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: str = Field("", description="pg1=10.0.0.1:5432,pg2=10.0.0.2 (name and port optional)")
    dsn: str = Field(
        "", description="instead of nodes: a DSN with one or several hosts, or service=name"
    )
    database: str = ""
    write_user: str = ""
    read_user: str = Field("", description="the user of reads; write_user when empty")
    passfile: Path | None = Field(None, description="libpq passfile; libpq's default when unset")
    policy: Literal["round_robin", "random", "weighted", "least_in_flight", "power_of_two"] = (
        "round_robin"
    )
    weights: str = Field(
        "",
        description="pg2=3,pg3=1 (any other node: 1): shares of the reads with policy weighted; "
        "a node of weight 0 is read only when there is no other",
    )
    max_lag_bytes: int = Field(16 * 1024 * 1024, ge=0)

    # How the servers are watched
    refresh_interval_seconds: float = Field(
        0.1, ge=0.05, le=60, description="between two questions to a server"
    )
    sample_interval_seconds: float = Field(
        0.01, ge=0.001, le=1, description="the same, while tokens and lag limits are in use"
    )
    eject_after_seconds: float = Field(
        0.3, ge=0.05, le=60, description="a server that is silent for so long is not used"
    )
    probe_timeout_seconds: float = Field(
        1.0, ge=0.05, le=60, description="an unanswered question ends in a new connection"
    )

    # How long callers wait
    connect_timeout_seconds: int = Field(3, ge=2, le=60)
    checkout_timeout_seconds: float = Field(5.0, gt=0, le=600)
    operation_timeout_seconds: float = Field(60.0, gt=0, le=86400)
    token_timeout_seconds: float = Field(1.0, ge=0, le=600)

    # What the primary and the fleet are spared
    spill_reads_per_second: float = Field(
        1000.0, ge=0, le=1e6, description="reads that go to the primary for want of a replica"
    )
    retry_share: float = Field(0.1, ge=0, le=1, description="retries, as a share of all calls")
    hedge_share: float = Field(
        0.0, ge=0, le=0.05, description="reads asked twice, as a share; 0: hedging is off"
    )
    hedge_percentile: float = Field(0.95, ge=0.5, lt=1, description="slower than this is slow")

    # Pools: one per server and purpose; the read_ and write_ sizes override the common ones
    pool_min_size: int = Field(1, ge=0, le=1000)
    pool_max_size: int = Field(10, ge=1, le=1000)
    read_pool_min_size: int | None = Field(None, ge=0, le=1000)
    read_pool_max_size: int | None = Field(None, ge=1, le=1000)
    write_pool_min_size: int | None = Field(None, ge=0, le=1000)
    write_pool_max_size: int | None = Field(None, ge=1, le=1000)
    pool_max_waiting: int = Field(0, ge=0, le=100_000, description="callers; 0: no limit")
    pool_idle_seconds: float = Field(600.0, gt=0, le=86400)
    pool_lifetime_seconds: float = Field(3600.0, gt=0, le=864000)

    # Settings of every connection; empty: as the server has them
    application_name: str = "pgroute"
    statement_timeout_seconds: float | None = Field(
        None, gt=0, le=86400, description="operation_timeout_seconds when unset"
    )
    lock_timeout_seconds: float | None = Field(None, gt=0, le=86400)
    idle_in_transaction_session_timeout_seconds: float | None = Field(
        None, gt=0, le=86400, description="operation_timeout_seconds when unset"
    )
    time_zone: str = ""
    search_path: str = ""

    # The service
    slow_query_seconds: float | None = Field(None, gt=0, description="log statements that took it")
    log_format: Literal["text", "json"] = "text"
    listen_address: str = Field("127.0.0.1", min_length=1)  # an empty one is every interface
    listen_port: int = Field(8080, ge=1, le=65535)
    heartbeat_seconds: float = Field(0.0, ge=0, le=3600, description="0: the service sends none")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Settings of the ``PGROUTE_*`` variables. ConfigurationError names the wrong one."""
        environment = os.environ if environment is None else environment
        values: dict[str, Any] = {}
        for variable, value in environment.items():
            if not variable.startswith(_PREFIX):
                continue
            field = variable.removeprefix(_PREFIX).lower()
            if field not in cls.model_fields:
                known = [_PREFIX + name.upper() for name in cls.model_fields]
                near = difflib.get_close_matches(variable, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigurationError(f"{variable} is not a setting of pgroute{hint}")
            values[field] = value
        return cls.make(**values)

    @classmethod
    def from_dsn(cls, dsn: str, **options: Any) -> Self:
        """Settings of a DSN such as ``postgresql://app@pg1,pg2,pg3/app``, and further fields."""
        return cls.make(dsn=dsn, **options)

    @classmethod
    def make(cls, **values: Any) -> Self:
        """Settings of exactly these fields. ConfigurationError names the first wrong one."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "configuration"
            raise ConfigurationError(f"{where}: {first['msg']}") from None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.nodes) == bool(self.dsn):
            raise ConfigurationError("set exactly one of PGROUTE_NODES and PGROUTE_DSN")
        for read_only, prefix in ((True, "read_"), (False, "write_")):
            low, high = self.pool_sizes(read_only=read_only)
            if low > high:
                both = (self.pool_min_size, self.pool_max_size) == (low, high)
                prefix = "" if both else prefix
                raise ConfigurationError(
                    f"{prefix}pool_min_size is greater than {prefix}pool_max_size"
                )
        for value, what in (
            (self.database_name, "database"),
            (self.writer, "write_user"),
            (self.members, "nodes"),
        ):
            if not value:
                raise ConfigurationError(f"no {what} given: set {_PREFIX}{what.upper()}")
        if self.weights and self.policy != "weighted":
            raise ConfigurationError(
                f"weights are set and the policy is {self.policy}: only weighted has weights"
            )
        if not any(self.node_weights.values()):
            raise ConfigurationError("weights: every node has 0; at least one must have more")
        if self.passfile is not None:
            check_passfile(self.passfile)
        return self

    @cached_property
    def _dsn(self) -> dict[str, str]:
        try:
            parts = {key: str(value) for key, value in conninfo_to_dict(self.dsn).items()}
        except ProgrammingError as error:
            # libpq quotes what it stumbles over, which may be a piece of a password.
            why = re.sub('".*"', "...", str(error).strip(), flags=re.DOTALL)
            raise ConfigurationError(
                f"the DSN cannot be read: {why}; write postgresql://user@host1,host2/database, "
                f"or name=value pairs"
            ) from None
        if name := parts.get("service", ""):
            parts = service_of(name) | parts
        if "password" in parts:
            raise ConfigurationError("the DSN holds a password: put it into a passfile instead")
        if "sslpassword" in parts:
            raise ConfigurationError(
                "the DSN holds the password of a client key: use a key without one, readable by "
                "its user alone"
            )
        if mine := sorted(_OWN_BUSINESS & parts.keys()):
            raise ConfigurationError(f"the DSN sets {mine[0]}, which pgroute decides itself")
        return parts

    @cached_property
    def members(self) -> tuple[Node, ...]:
        """The servers, in the order they were given."""
        found = _parse_dsn_hosts(self._dsn) if self.dsn else _parse_nodes(self.nodes)
        names = [node.name for node in found]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigurationError(f"the node {min(twice)} is given twice")
        return found

    @cached_property
    def node_weights(self) -> Mapping[str, float]:
        """The weight of every server by its name, 1 where none is given."""
        found = dict.fromkeys((node.name for node in self.members), 1.0)
        given = _parse_weights(self.weights) if self.weights else {}
        if unknown := sorted(given.keys() - found.keys()):
            raise ConfigurationError(
                f"weights: there is no node {unknown[0]}; known: {', '.join(found)}"
            )
        return found | given

    @property
    def passfile_read(self) -> Path:
        """The file that libpq takes passwords from."""
        if self.passfile is not None:
            return self.passfile
        named = self._dsn.get("passfile") or os.environ.get("PGPASSFILE")
        return Path(named) if named else Path.home() / ".pgpass"

    @property
    def database_name(self) -> str:
        """The database to connect to."""
        return self.database or self._dsn.get("dbname", "")

    @property
    def writer(self) -> str:
        """The user of write connections."""
        return self.write_user or self._dsn.get("user", "")

    @property
    def application(self) -> str:
        """What every connection calls itself."""
        if "application_name" in self.model_fields_set:
            name = self.application_name
        else:
            name = self._dsn.get("application_name", self.application_name)
        return name[:_NAME_LENGTH]

    @property
    def reader(self) -> str:
        """The user of read connections."""
        return self.read_user or self.writer

    def pool_sizes(self, *, read_only: bool) -> tuple[int, int]:
        """Fewest and most connections to one server for reads, or for writes."""
        low = self.read_pool_min_size if read_only else self.write_pool_min_size
        high = self.read_pool_max_size if read_only else self.write_pool_max_size
        return (
            self.pool_min_size if low is None else low,
            self.pool_max_size if high is None else high,
        )

    def session(self, *, read_only: bool) -> dict[str, str]:
        """The server settings that every connection begins with, by name."""
        limit = self.operation_timeout_seconds
        found = {
            "statement_timeout": _milliseconds(self.statement_timeout_seconds or limit),
            "idle_in_transaction_session_timeout": _milliseconds(
                self.idle_in_transaction_session_timeout_seconds or limit
            ),
            "default_transaction_read_only": "on" if read_only else "off",
        }
        if self.lock_timeout_seconds is not None:
            found["lock_timeout"] = _milliseconds(self.lock_timeout_seconds)
        if self.time_zone:
            found["TimeZone"] = self.time_zone
        if self.search_path:
            found["search_path"] = self.search_path
        return found

    def connection(self, node: Node, *, user: str, read_only: bool) -> dict[str, Any]:
        """libpq parameters of a connection to one server; every wait in it has an end."""
        session = self.session(read_only=read_only)
        skip = {"host", "port", "dbname", "user", "application_name"}
        extra = {key: value for key, value in self._dsn.items() if key not in skip}
        if self.passfile is not None:
            extra["passfile"] = str(self.passfile)
        return {
            **extra,
            "application_name": self.application,
            "host": node.host,
            "hostaddr": "",  # else PGHOSTADDR would be the address of every node
            "port": node.port,
            "dbname": self.database_name,
            "user": user,
            "connect_timeout": self.connect_timeout_seconds,
            "keepalives": 1,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "target_session_attrs": "any",  # over what a service file may say
            "load_balance_hosts": "disable",
            "options": " ".join(f"-c {name}={_escaped(value)}" for name, value in session.items()),
        }


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))


def _escaped(value: str) -> str:
    """As libpq's ``options`` wants it: a space and a backslash behind a backslash."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def check_passfile(path: Path) -> None:
    """ConfigurationError unless libpq will read this file; libpq itself would say nothing."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"the passfile {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"the passfile {path} is not a file")
    if mode & 0o077:
        raise ConfigurationError(f"the passfile {path} can be read by others: chmod 0600 it")
    if not os.access(path, os.R_OK):
        raise ConfigurationError(f"the passfile {path} cannot be read by this user")


def _parse_nodes(text: str) -> tuple[Node, ...]:
    if "@" in text or "://" in text:  # not quoted: it may hold a password
        raise ConfigurationError(
            f"{_PREFIX}NODES holds a DSN: a DSN belongs into {_PREFIX}DSN, and a password into a "
            "passfile"
        )
    nodes = []
    for item in text.split(","):
        name, equals, address = item.strip().partition("=")
        if not equals:
            name, address = "", name
        host, port = _host_and_port(address, item)
        nodes.append(Node(name or host, host, port))
    return tuple(nodes)


def _parse_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = (part.strip() for part in item.rpartition("="))
        if not name:
            raise ConfigurationError(f"not a weight: {item.strip()!r}; write name=number")
        if name in weights:
            raise ConfigurationError(f"weights: the node {name} is given twice")
        weights[name] = _weight(name, number)
    return weights


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= _MOST_WEIGHT:  # nor what is no number
        raise ConfigurationError(
            f"weights: {name} has {text!r}; a weight is a number from 0 to {_MOST_WEIGHT}"
        )
    return weight


def _host_and_port(address: str, item: str) -> tuple[str, int]:
    if address.startswith("["):  # [2001:db8::1]:5432
        host, _, rest = address[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = address.partition(":")
    if not host or (port and not port.isdecimal()):
        raise ConfigurationError(f"not a node: {item.strip()!r}; write name=host:port")
    return host, _port(port)


def _port(text: str) -> int:
    if text and not text.isdecimal():
        raise ConfigurationError(
            "a port in the DSN is no number; in a URL, special characters of names are "
            "%-encoded, and passwords belong into a passfile"
        )
    port = int(text) if text else _DEFAULT_PORT
    if not 0 < port < 65536:
        raise ConfigurationError(f"not a port: {port}")
    return port


def _parse_dsn_hosts(parts: Mapping[str, str]) -> tuple[Node, ...]:
    hosts = parts.get("host", "").split(",")
    if not all(hosts):
        raise ConfigurationError("the DSN names no host, or an empty one")
    ports = parts.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise ConfigurationError(f"the DSN has {len(hosts)} hosts and {len(ports)} ports")
    shared = len(set(hosts)) < len(hosts)
    return tuple(
        Node(f"{host}:{_port(port)}" if shared else host, host, _port(port))
        for host, port in zip(hosts, ports, strict=True)
    )
