"""The ledger in made-up histories: late answers, restarts, failovers, a primary that comes back."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pgroute.core.candidates import Then, select
from pgroute.core.contracts import Contract
from pgroute.core.ledger import Ledger, Standing
from pgroute.core.lsn import Mark, Token
from pgroute.core.topology import Answer, Fence, Observation, Silence, Topology, decide
from pgroute.core.trail import Trail
from pgroute.errors import TokenUnproven

CLUSTER = 7_000_000_000_000_000_001
NAMES = ("pg1", "pg2", "pg3")
SOME_NODE = st.sampled_from(NAMES)


@dataclass(frozen=True)
class Record:
    """One record in a log; its end is the position after it."""

    end: int
    identity: int
    committed_at: float


@dataclass
class Server:
    """A server that is real as far as the ledger is concerned."""

    writable: bool
    timeline: int = 1
    log: tuple[Record, ...] = ()
    follows: str = "pg1"
    applying: bool = False  # a standby shows its last record, and does not count it yet
    asked_at: float | None = None
    answer: tuple[bool, int, int, bool] | None = None

    @property
    def position(self) -> int:
        return self.log[-1].end if self.log else 0

    @property
    def told(self) -> int:
        """The position that it tells."""
        if not self.applying:
            return self.position
        return self.log[-2].end if len(self.log) > 1 else 0

    @property
    def content(self) -> set[int]:
        return {record.identity for record in self.log}


@dataclass
class Promise:
    """A mark, and what must be there for it."""

    mark: Mark
    content: set[int] = field(default_factory=set)


class Histories(RuleBasedStateMachine):
    """Time goes by with every step; whatever the ledger says is compared with the servers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.records = 0
        self.timelines = 1
        self.ledger = Ledger(history=8)
        self.servers = {name: Server(writable=name == "pg1") for name in NAMES}
        self.heard: dict[str, Observation] = {name: Silence(name, "not asked") for name in NAMES}
        self.fence = Fence()
        self.topology = Topology((), None, (), Fence(), "nothing was asked yet")
        self.promises: list[Promise] = []
        self.trail = Trail()
        self.seen: set[int] = set()

    @initialize()
    def look_once(self) -> None:
        for name in NAMES:
            self.ask(name)
            self.answer(name)
            self.hear(name)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    # What happens to the servers

    def append(self, server: Server, size: int) -> None:
        self.records += 1
        record = Record(server.position + size, self.records, self.tick())
        server.log = (*server.log, record)

    @rule(name=SOME_NODE, size=st.integers(1, 3))
    def write(self, name: str, size: int) -> None:
        """A write goes to whoever is writable, even to one that should not be written to."""
        server = self.servers[name]
        if server.writable:
            self.append(server, size)

    @rule(name=SOME_NODE, records=st.integers(1, 4), applying=st.booleans())
    def replicate(self, name: str, records: int, applying: bool = False) -> None:
        server = self.servers[name]
        source = self.servers[server.follows]
        grown = source.log[: len(server.log) + records]
        if server.timeline > source.timeline:
            return  # a server refuses to follow an older timeline than its own
        if not server.writable and grown[: len(server.log)] == server.log:
            server.applying = applying and (len(grown) > len(server.log) or server.applying)
            server.log, server.timeline = grown, source.timeline

    @rule(name=SOME_NODE)
    def count(self, name: str) -> None:
        """A standby has replayed what it shows."""
        self.servers[name].applying = False

    @rule(name=SOME_NODE, source=SOME_NODE)
    def follow(self, name: str, source: str) -> None:
        if name != source and not self.servers[name].writable:
            self.servers[name].follows = source

    @rule(name=SOME_NODE, keeps=st.integers(0, 5))
    def restart(self, name: str, keeps: int) -> None:
        """A standby comes back with less, or a demoted primary as a standby. The probe notices."""
        server = self.servers[name]
        if server.writable and sum(s.writable for s in self.servers.values()) < 2:
            return
        server.writable = server.applying = False
        server.log = server.log[:keeps]
        self.lose(name)

    @rule(name=SOME_NODE)
    def promote(self, name: str) -> None:
        """The old primary, if it lives, does not know."""
        server = self.servers[name]
        if not server.writable and server.timeline == self.timelines < 4:
            self.timelines += 1
            server.writable, server.timeline, server.applying = True, self.timelines, False
            self.append(server, 1)

    @rule(name=SOME_NODE, records=st.integers(1, 4))
    def split(self, name: str, records: int) -> None:
        """One standby takes over while the other goes on with the old primary."""
        self.sample_all()
        old = next((n for n in NAMES if self.servers[n].writable), None)
        self.promote(name)
        if old is None or not self.servers[name].writable:
            return
        for _ in range(records):
            self.append(self.servers[old], 1)
        for other in NAMES:
            self.replicate(other, records + 1)
        self.sample_all()
        self.write_through_the_router(1)

    @rule(name=SOME_NODE)
    def clone(self, name: str) -> None:
        """Begin anew as a copy of the newest primary."""
        newest = max(
            self.servers, key=lambda n: (self.servers[n].writable, self.servers[n].timeline)
        )
        if name != newest and self.servers[newest].writable:
            source = self.servers[newest]
            self.servers[name] = Server(False, source.timeline, source.log, newest)
            self.lose(name)

    def lose(self, name: str) -> None:
        self.servers[name].asked_at = self.servers[name].answer = None
        self.ledger.silent(name)
        self.heard[name] = Silence(name, "lost")
        self.conclude()

    # What the sampler does

    @rule(name=SOME_NODE)
    def ask(self, name: str) -> None:
        server = self.servers[name]
        if server.asked_at is None:
            server.asked_at, server.answer = self.tick(), None

    @rule(name=SOME_NODE, archived=st.booleans(), ending=st.booleans())
    def answer(self, name: str, archived: bool = False, ending: bool = False) -> None:
        """``archived``: it may get log from elsewhere, and so never says that it has all.
        ``ending``: it was promoted between saying that it recovers and telling its timeline."""
        server = self.servers[name]
        if server.asked_at is not None and server.answer is None:
            self.tick()
            server.answer = (
                server.writable and not ending,
                server.timeline,
                server.told,
                not server.applying and not archived,
            )

    @rule(name=SOME_NODE)
    def hear(self, name: str) -> None:
        server = self.servers[name]
        if server.asked_at is None or server.answer is None:
            return
        writable, timeline, position, complete = server.answer
        self.heard[name] = Answer(name, not writable, timeline, CLUSTER, position, not writable)
        started_at, server.asked_at, server.answer = server.asked_at, None, None
        if not writable:
            self.ledger.replica_seen(
                name,
                started_at=started_at,
                timeline=timeline,
                position=position,
                complete=complete,
            )
        self.conclude()
        if writable and self.topology.primary == name:
            self.ledger.primary_seen(
                name,
                started_at=started_at,
                timeline=timeline,
                position=position,
                system_identifier=CLUSTER,
            )

    def conclude(self) -> None:
        self.topology = decide(
            [self.heard[name] for name in NAMES], fence=self.fence, max_lag_bytes=5
        )
        self.fence = self.topology.fence

    @rule()
    def sample_all(self) -> None:
        for name in NAMES:
            self.ask(name)
            self.answer(name)
            self.hear(name)

    # What the router's users do

    def mark(self, name: str) -> Mark:
        return Mark(name, self.tick(), self.ledger.timeline, self.ledger.epoch(name))

    @rule(size=st.integers(1, 3))
    def write_through_the_router(self, size: int) -> None:
        name = self.topology.primary
        if name is None:
            return
        server = self.servers[name]
        if server.writable and server.timeline == self.topology.fence.timeline:
            mark = Mark(name, 0.0, self.topology.fence.timeline, self.ledger.epoch(name))
            self.append(server, size)
            mark = Mark(name, self.tick(), mark.timeline, mark.epoch)
            self.promises.append(Promise(mark, server.content))
            self.trail.note(mark)
            self.seen |= {self.records}

    @rule(which=st.integers(0, 5))
    def read_in_the_session(self, which: int) -> None:
        """A monotonic read sees all that the session has seen, or is refused."""
        try:
            found = select(Contract(), self.topology, self.ledger, now=self.now, trail=self.trail)
        except TokenUnproven:
            self.trail, self.seen = Trail(), set()
            return
        nodes = [*found.candidates]
        if found.then is Then.SPILL and found.primary is not None:
            nodes.append(found.primary)
        if not nodes:
            return
        name = nodes[which % len(nodes)]
        server = self.servers[name]
        if name == found.primary and (
            not server.writable or server.timeline != self.topology.fence.timeline
        ):
            return  # its connections are gone
        timeline, epoch = self.ledger.timeline, self.ledger.epoch(name)
        if self.trail.floor is not None or self.trail.pending:
            assert self.seen <= server.content
        self.seen |= server.content
        if name == found.primary:
            timeline = self.topology.fence.timeline
        elif server.writable:
            timeline += 1  # as it says with the answer
        self.trail.note(Mark(name, self.tick(), timeline, epoch))

    @rule(name=SOME_NODE, records=st.integers(1, 4), which=st.integers(0, 5))
    def read_what_just_came(self, name: str, records: int, which: int) -> None:
        """A replica moves on unsampled, and is read; then another is."""
        self.replicate(name, records)
        self.read_in_the_session(which)
        self.read_in_the_session(which + 1)

    @rule(name=SOME_NODE, writer=SOME_NODE, which=st.integers(0, 5))
    def read_what_is_not_counted(self, name: str, writer: str, which: int) -> None:
        """A replica shows a record before it tells so, and is read; then another is."""
        for other in NAMES:
            self.replicate(other, 99)
            self.count(other)
        self.sample_all()
        self.write(writer, 1)
        self.replicate(name, 1, applying=True)
        self.read_in_the_session(which)
        self.sample_all()
        self.read_in_the_session(which + 1)

    @rule(name=SOME_NODE, which=st.integers(0, 5))
    def read_on_one_that_was_promoted(self, name: str, which: int) -> None:
        """Nobody has been asked since; then another is read."""
        self.promote(name)
        self.read_in_the_session(which)
        self.read_in_the_session(which + 1)

    @rule(name=SOME_NODE, keeps=st.integers(0, 3), which=st.integers(0, 5))
    def read_after_a_restart(self, name: str, keeps: int, which: int) -> None:
        """A replica is read, restarts with less, and is back at once."""
        self.read_in_the_session(which)
        self.restart(name, keeps)
        self.ask(name)
        self.answer(name)
        self.hear(name)
        self.read_in_the_session(which)

    # What must hold

    @invariant()
    def who_is_called_safe_is_safe(self) -> None:
        for promise in self.promises[-5:]:
            try:
                token = self.ledger.settle(promise.mark)
            except TokenUnproven:
                continue
            if token is None:
                continue
            for name, server in self.servers.items():
                if self.ledger.holds(name, token):
                    assert promise.content <= server.content, (name, token)
            self.primary_has(token, promise.content)

    def primary_has(self, token: Token, content: set[int]) -> None:
        if self.ledger.standing(token) is Standing.PROVEN:
            for server in self.servers.values():
                if server.writable and server.timeline == self.ledger.timeline:
                    assert content <= server.content, token

    @invariant()
    def data_are_no_older_than_told(self) -> None:
        for name, server in self.servers.items():
            seconds = self.ledger.staleness(name, self.now)
            if seconds is None:
                continue
            for primary in self.servers.values():
                if primary.writable and primary.timeline == self.ledger.timeline:
                    due = {r.identity for r in primary.log if r.committed_at < self.now - seconds}
                    assert due <= server.content, (name, seconds)


Histories.TestCase.settings = settings(
    max_examples=400, stateful_step_count=60, deadline=None, derandomize=True
)
TestHistories = Histories.TestCase
