"""What can be done to the servers, and the scenario of all of it."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from pgroute.chaos.report import Window
from pgroute.core.lsn import parse_lsn
from tests.servers import BIN, NAMES, Servers, eventually, port

# Windows that a promise is about.
FROZEN, THAWED = "replica frozen", "replica thawed"
CUT_OFF, REACHED = "replica cut off", "replica reached again"
PROMOTED = "replica promoted"  # how the names of those with a promotion end

_END = "@end@"
_DETECTION_SECONDS = 0.5  # what an orchestrator needs to see a dead primary, at the very least


class Shell:
    """One shell in the container, kept open: a command takes a millisecond, not a hundred."""

    def __init__(self, container: str) -> None:
        self._process = subprocess.Popen(
            # One stream already in there: the engine keeps the order within a stream only.
            ["docker", "exec", "-i", container, "bash", "-c", "exec bash 2>&1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, script: str) -> str:
        """Run a script; RuntimeError with its output when it fails."""
        lines: list[str] = []
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(f"( {script}\n) </dev/null; echo; echo {_END}$?\n")
            for line in self._process.stdout:
                if line.startswith(_END):
                    break
                lines.append(line)
            else:
                raise RuntimeError(f"the shell ended: {''.join(lines)}")
        output = "".join(lines).strip()
        if line.strip() != f"{_END}0":
            raise RuntimeError(f"{script}\n{output}")
        return output


@dataclass
class Faults:
    """Breaks and mends the servers. ``primary`` and ``former`` follow the promotions."""

    servers: Servers
    shell: Shell
    primary: str = "pg1"
    former: str = ""

    @property
    def replicas(self) -> list[str]:
        """All servers but the primary."""
        return [name for name in NAMES if name != self.primary]

    def sql(self, node: str, statement: str) -> str:
        """One statement as the superuser, over the server's socket."""
        psql = f"psql -X -q -At -v ON_ERROR_STOP=1 -h /srv/pg -p {port(node)} -U postgres"
        return self.shell.run(f'{psql} -c "{statement}"')

    def signal(self, node: str, name: str) -> None:
        # A postmaster that stands still has no further children meanwhile.
        self.shell.run(
            f"p=$(head -1 /srv/pg/{node}/postmaster.pid); kill -STOP $p; "
            f"kill -{name} $p $(pgrep -P $p) || true"
        )

    def freeze(self, node: str) -> None:
        self.signal(node, "STOP")

    def thaw(self, node: str) -> None:
        self.signal(node, "CONT")

    def kill(self, node: str) -> None:
        self.signal(node, "KILL")

    def cut(self, node: str) -> None:
        """Drop every packet to and from the server's port: no reset, no answer."""
        for chain, side in (("INPUT", "dport"), ("OUTPUT", "sport")):
            self.shell.run(f"iptables -I {chain} -p tcp --{side} {port(node)} -j DROP")

    def mend(self, node: str) -> None:
        for chain, side in (("INPUT", "dport"), ("OUTPUT", "sport")):
            self.shell.run(f"iptables -D {chain} -p tcp --{side} {port(node)} -j DROP")

    def pause_replay(self) -> None:
        for node in self.replicas:
            self.sql(node, "select pg_wal_replay_pause()")

    def resume_replay(self) -> None:
        for node in self.replicas:
            self.sql(node, "select pg_wal_replay_resume()")

    def stop_receiving(self, node: str) -> None:
        """Freeze the WAL receiver: it looks alive, and nothing arrives."""
        self.shell.run(f"kill -STOP $({self._receiver(node)})")

    def receive_again(self, node: str) -> None:
        self.shell.run(f"kill -CONT $({self._receiver(node)})")

    def _receiver(self, node: str) -> str:
        return f"pgrep -P $(head -1 /srv/pg/{node}/postmaster.pid) -f walreceiver"

    def end_sessions(self) -> None:
        """End every client's session on every server."""
        for node in NAMES:
            self.sql(
                node,
                "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                "where backend_type = 'client backend' and usename like 'app%'",
            )

    def restart(self, node: str) -> None:
        self.shell.run(
            f"su postgres -c '{BIN}/pg_ctl -D /srv/pg/{node} -w -t 300 -s -m fast "
            f"-l /srv/pg/{node}.log restart'"
        )

    def promote_the_best(self) -> str:
        """Promote the replica that has received most, and let the others follow it."""
        best = max(self.replicas, key=self._received)
        others = [node for node in self.replicas if node != best]
        self.sql(best, "select pg_promote(false)")
        self.former, self.primary = self.primary, best
        for node in others:
            self.follow(node, best)
        return best

    def _received(self, node: str) -> int:
        return parse_lsn(
            self.sql(
                node, "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text"
            )
        )

    def follow(self, node: str, upstream: str) -> None:
        """Let a replica stream from ``upstream`` from now on."""
        conninfo = f"host=/srv/pg port={port(upstream)} user=postgres"
        self.sql(node, f"alter system set primary_conninfo = '{conninfo}'")
        self.sql(node, "select pg_reload_conf()")

    def start(self, node: str) -> None:
        self.shell.run(
            f"su postgres -c '{BIN}/pg_ctl -D /srv/pg/{node} -w -t 300 -s "
            f'-l /srv/pg/{node}.log -o "-p {port(node)}" start\' > /dev/null 2>&1'
        )

    def clone(self, node: str) -> None:
        """Make a server that left the primary's history its replica again."""
        self.kill(node)
        self.shell.run(f"while pgrep -f 'D /srv/pg/{node}( |$)' > /dev/null; do sleep 0.05; done")
        self.servers.clone(node, upstream=self.primary)

    def wait_until_streaming(self) -> None:
        """Until every replica streams from the primary and has replayed what it has now."""
        now = self.sql(self.primary, "select pg_current_wal_lsn()")
        count = (
            "select count(*) from pg_stat_replication "
            f"where state = 'streaming' and replay_lsn >= '{now}'"
        )
        eventually(
            lambda: self.sql(self.primary, count) == "2",
            seconds=300,
            what="both replicas stream",
        )


@dataclass(frozen=True)
class Step:
    """One fault, how long it lasts, and how it is mended.

    ``whole``: both replicas stream again before the next step begins.
    """

    name: str
    begin: Callable[[Faults], object]
    seconds: float
    mended: str = ""
    end: Callable[[Faults], object] | None = None
    whole: bool = True


def _kill_and_promote(faults: Faults) -> None:
    faults.kill(faults.primary)
    time.sleep(_DETECTION_SECONDS)
    faults.promote_the_best()


def _freeze_and_promote(faults: Faults) -> None:
    faults.freeze(faults.primary)
    time.sleep(_DETECTION_SECONDS)
    faults.promote_the_best()


def promotions(times: int, seconds: float) -> list[Step]:
    """The primary is killed and a replica promoted, again and again."""
    once = [
        Step("no fault", lambda _: None, seconds),
        Step(
            f"primary killed, {PROMOTED}",
            _kill_and_promote,
            seconds,
            "old primary cloned",
            lambda f: f.clone(f.former),
        ),
    ]
    return once * times


def scenario(seconds: float) -> list[Step]:
    """Every fault in turn, each lasting ``seconds``."""
    return [
        Step("no fault", lambda _: None, seconds),
        Step(
            FROZEN,
            lambda f: f.freeze(f.replicas[0]),
            seconds,
            THAWED,
            lambda f: f.thaw(f.replicas[0]),
        ),
        Step(
            "primary frozen",
            lambda f: f.freeze(f.primary),
            seconds,
            "primary thawed",
            lambda f: f.thaw(f.primary),
        ),
        Step(
            "replay paused",
            lambda f: f.pause_replay(),
            seconds,
            "replay resumed",
            lambda f: f.resume_replay(),
        ),
        Step(
            "WAL receiver frozen",
            lambda f: f.stop_receiving(f.replicas[1]),
            seconds,
            "WAL receiver thawed",
            lambda f: f.receive_again(f.replicas[1]),
        ),
        Step("all sessions ended", lambda f: f.end_sessions(), seconds),
        Step("replica restarted", lambda f: f.restart(f.replicas[1]), seconds),
        Step("primary restarted", lambda f: f.restart(f.primary), seconds),
        Step(
            CUT_OFF,
            lambda f: f.cut(f.replicas[1]),
            seconds,
            REACHED,
            lambda f: f.mend(f.replicas[1]),
        ),
        Step(
            "primary cut off",
            lambda f: f.cut(f.primary),
            seconds,
            "primary reached again",
            lambda f: f.mend(f.primary),
        ),
        Step(f"primary killed, {PROMOTED}", _kill_and_promote, seconds, whole=False),
        Step(
            "old primary returns",
            lambda f: f.start(f.former),
            seconds,
            "old primary cloned",
            lambda f: f.clone(f.former),
        ),
        Step(f"primary frozen, {PROMOTED}", _freeze_and_promote, seconds, whole=False),
        Step(
            "old primary thawed",
            lambda f: f.thaw(f.former),
            seconds,
            "old primary cloned",
            lambda f: f.clone(f.former),
        ),
    ]


def play(
    faults: Faults, steps: Sequence[Step], say: Callable[[str], None], *, settle: float
) -> list[Window]:
    """Go through the steps, ``settle`` seconds after each mending; the windows they took."""
    began: list[tuple[str, float]] = []

    def enter(name: str) -> None:
        began.append((name, time.monotonic()))
        say(name)

    for step in steps:
        enter(step.name)
        step.begin(faults)
        time.sleep(step.seconds)
        if step.end is not None:
            enter(step.mended)
            step.end(faults)
            time.sleep(settle)
        if step.whole:
            faults.wait_until_streaming()
    ends = [*(begin for _, begin in began[1:]), time.monotonic()]
    return [Window(name, begin, end) for (name, begin), end in zip(began, ends, strict=True)]
