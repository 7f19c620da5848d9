"""What the doctor has seen, before anybody judges it. Times in seconds, sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pgroute.config import Node, Settings


class Purpose(StrEnum):
    """What a connection is for."""

    READ = "read"
    WRITE = "write"


class Origin(StrEnum):
    """Where a session's setting comes from; the later goes before the earlier."""

    SERVER = "server"  # its configuration, or PostgreSQL's default
    EVERYBODY = "everybody"  # ALTER ROLE ALL
    DATABASE = "database"
    ROLE = "role"
    ROLE_IN_DATABASE = "role in database"


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a host: ``seconds`` that a TCP connection took, or why there was none."""

    family: str  # IPv4, IPv6 or socket
    address: str
    seconds: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """The addresses of a host name, or why it has none."""

    addresses: tuple[Address, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate. ``names``: what it is for; times in UTC."""

    names: tuple[str, ...]
    issuer: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Tls:
    """Whether the server encrypts, with which certificate; None: it was not heard."""

    offered: bool | None = None
    certificate: Certificate | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Passfile:
    """The passfile in use: ``failure`` says why libpq does not read it.

    ``socket_directory`` is the one that libpq was built with: it is looked up as ``localhost``.
    """

    path: str
    failure: str | None = None
    socket_directory: str = ""

    def wanted(self, node: Node, database: str, user: str) -> tuple[str, str, str, str]:
        """What the first four fields of a line must stand for."""
        host = "localhost" if node.host == self.socket_directory else node.host
        return host, str(node.port), database, user


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user may do with one table, view or the like, named ``schema.table``."""

    table: str
    usage: bool = True  # of its schema
    select: bool = True
    insert: bool = True
    update: bool = True
    delete: bool = True
    sequences: bool = True  # that its columns draw from
    writable: bool = True  # by anybody: most views are not

    def missing(self, *, writing: bool) -> tuple[str, ...]:
        """The privileges that a reader, or a writer, would need and does not have."""
        needed = {"USAGE of its schema": self.usage, "SELECT": self.select}
        if writing and self.writable:
            needed |= {"INSERT": self.insert, "UPDATE": self.update, "DELETE": self.delete}
            needed |= {"USAGE of its sequences": self.sequences}
        return tuple(name for name, has in needed.items() if not has)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A connection as the router would make it, seen from both ends."""

    encrypted: bool = False
    tls_version: str | None = None
    used_password: bool = True
    tells_role: bool = True  # in_hot_standby arrives on the wire
    direct: bool = True  # the process that answers is the one that was connected to
    prepare_failure: str | None = None
    superuser: bool = False
    connection_limit: int = -1  # of the role; -1: none
    sees_statistics: bool = True
    effective: Mapping[str, str] = field(default_factory=dict)  # server settings, in base units
    own: Mapping[str, str] = field(default_factory=dict)  # as ALTER ROLE or DATABASE wrote them
    origins: Mapping[str, Origin] = field(default_factory=dict)  # where these were set
    isolation: str = "read committed"  # of a transaction that does not say which
    isolation_origin: Origin = Origin.SERVER
    rights: tuple[Rights, ...] = ()  # to all tables, without partitions and what extensions made
    wanted: Mapping[str, Rights | None] = field(default_factory=dict)  # by name; None: none such


@dataclass(frozen=True, slots=True)
class Login:
    """One attempt to connect; ``passfile_line``: which line has the password, if any."""

    user: str
    purpose: Purpose
    failure: str | None = None
    passfile_line: int | None = None
    session: Session | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """The server's wall clock minus this machine's, and by how much that may be wrong."""

    offset: float
    uncertainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a server says of itself. Positions are bytes of log."""

    version: int = 170000
    system_identifier: int = 0
    in_recovery: bool = False
    timeline: int = 1
    position: int | None = 0
    started_at: str = ""
    receiving: bool = False
    receiver_status: str | None = None  # None: not visible to the user who asked
    replay_paused: bool = False
    max_connections: int = 100
    reserved_connections: int = 3
    used_connections: int = 0
    database_limit: int = -1
    hot_standby_feedback: bool = False
    standby_delay: float = 30.0  # max_standby_streaming_delay in seconds; below 0: for ever
    conflicts: int = 0
    clock: Clock = Clock(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node. ``server`` is None when nobody could ask it."""

    node: Node
    reach: Reach = Reach()
    tls: Tls = Tls()
    sslmode: str = "prefer"
    logins: tuple[Login, ...] = ()
    server: Server | None = None
    failure: str | None = None  # why it was not asked, though somebody logged in

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def is_local(self) -> bool:
        """Whether connections stay on this machine."""
        return self.node.host.startswith("/") or (
            bool(self.reach.addresses)
            and all(
                one.address == "::1" or one.address.startswith("127.")
                for one in self.reach.addresses
            )
        )

    def session(self, purpose: Purpose) -> Session | None:
        """The session for ``purpose``, None when there was no connection."""
        return next((each.session for each in self.logins if each.purpose is purpose), None)


@dataclass(frozen=True, slots=True)
class CatchUp:
    """How far a replica was behind, and how long it took to get where the primary had been.

    ``seconds`` is None when it had not within ``limit``; ``behind`` is None when it is unknown.
    """

    behind: int | None
    seconds: float | None
    limit: float


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """The outcome of comparing computed leaves with the server's."""

    table: str
    leaves: int = 0
    agreed_keys: int = 0
    uncomputable: str | None = None  # why nothing is computed
    mismatch: str | None = None
    failure: str | None = None  # why it was not compared


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything. ``now`` is this machine's wall clock in UTC."""

    settings: Settings
    now: datetime
    nodes: tuple[NodeFacts, ...]
    passfile: Passfile | None = None  # None: none is configured, and libpq has no default
    password_variable: bool = False  # PGPASSWORD is set
    catch_up: Mapping[str, CatchUp] = field(default_factory=dict)
    partitions: tuple[PartitionedTable, ...] = ()
    partitions_failure: str | None = None

    @property
    def answering(self) -> tuple[tuple[NodeFacts, Server], ...]:
        """The nodes that told what they are."""
        return tuple((node, node.server) for node in self.nodes if node.server is not None)
