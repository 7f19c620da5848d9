"""The demonstration: real rows, written to the primary, read back and checked on every node.

It can be run any number of times. A user of the five is recognised by the first name, a sale by
its order id: what is there is kept and checked, what is missing is written, under one lock. The
load tops tbl_users up to the asked number of rows beside the five.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import date
from decimal import Decimal
from random import Random
from uuid import UUID

from pgroute import Role, Router, RoutingError, Token, Topology, created_at, new_key
from pgroute.examples.shop import (
    NewUser,
    Result,
    Sale,
    SalesMonth,
    add_sale,
    add_users,
    sales_by_month,
    unit_of_work,
)
from pgroute.load import load_users
from pgroute.people import FIVE
from pgroute.text import table

# Any fixed number: two demos at once take turns.
_LOCK = 0x7067726F757465

SALES: tuple[Sale, ...] = (
    Sale(1, date(2023, 1, 15), Decimal("1250.00")),
    Sale(2, date(2023, 4, 2), Decimal("89.90")),
    Sale(3, date(2023, 8, 21), Decimal("430.50")),
    Sale(4, date(2023, 12, 31), Decimal("2199.99")),
    Sale(5, date(2024, 1, 1), Decimal("310.00")),
    Sale(6, date(2024, 2, 29), Decimal("75.25")),
    Sale(7, date(2024, 7, 14), Decimal("1640.00")),
    Sale(8, date(2024, 11, 29), Decimal("520.80")),
)

_LEAVES = """
select c.relname
from pg_inherits as i join pg_class as c on c.oid = i.inhrelid
where i.inhparent = 'tbl_users'::regclass
order by 1
"""
_ROWS_PER_LEAF = """
select leaf.relid::text, count(users.id)
from pg_partition_tree('tbl_users') as leaf
left join tbl_users as users on users.tableoid = leaf.relid and users.id <= %s
where leaf.isleaf group by leaf.relid order by 1
"""
# The same rows give the same number in whatever order they lie.
_FINGERPRINT = """
select count(*), coalesce(sum(hash_record_extended(row(id, first_name), 0)), 0)
from tbl_users where id <= %s
"""


@dataclass
class Demo:
    """One run. ``say`` gets lines of plain text; :attr:`failed` collects the broken promises."""

    router: Router
    rows: int
    say: Callable[[str], None]
    random: Random
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    settle_seconds: float = 5.0
    catch_up_seconds: float = 120.0
    failed: list[str] = field(default_factory=list)

    def run(self) -> bool:
        """All steps in order; True when every check held. Raises RoutingError and psycopg's."""
        started = self.clock()
        self._introduce()
        self._five_users()
        self._eight_sales()
        self._many_users()
        seconds = self.clock() - started
        self.say("")
        if self.failed:
            self.say(f"{len(self.failed)} checks failed, after {seconds:.1f} s:")
            for promise in self.failed:
                self.say(f"  {promise}")
            return False
        self.say(f"All checks passed, in {seconds:.1f} s.")
        return True

    def _check(self, holds: bool, promise: str) -> None:
        self.say(f"  {'ok  ' if holds else 'FAIL'}  {promise}")
        if not holds:
            self.failed.append(promise)

    def _title(self, text: str) -> None:
        self.say("")
        self.say(text)

    def _settled(self) -> Topology:
        """The topology once every node is well, or as it is after ``settle_seconds``."""
        until = self.clock() + self.settle_seconds
        while True:
            topology = self.router.topology
            if all(state.healthy for state in topology.nodes) or self.clock() >= until:
                return topology
            self.sleep(0.1)

    def _introduce(self) -> None:
        topology = self._settled()
        members = [
            f"{state.node} ({state.role})" if state.healthy else f"{state.node} ({state.state})"
            for state in topology.nodes
        ]
        self.say(f"The fleet: {', '.join(members)}.")
        self._check(topology.primary is not None, "there is one primary")
        members = [state.node for state in topology.nodes if state.node not in topology.replicas]
        self._check(members == [topology.primary], "every other node is a healthy replica")

    # Five users

    def _five_users(self) -> None:
        with unit_of_work(self.router) as unit:
            connection = unit.connection
            node = connection.node
            connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
            known = {
                row[0]
                for row in connection.execute(
                    "select distinct first_name from tbl_users where first_name = any(%s)",
                    (list(FIVE),),
                )
            }
            missing = [NewUser(new_key(), name) for name in FIVE if name not in known]
            outcomes = add_users(unit, missing)
        token = unit.token()
        self._title(f"1. Five users with UUIDv7 keys: {_done(len(missing), len(FIVE), node)}")

        if outcomes:
            self._check(
                all(outcome.result is Result.INSERTED for outcome in outcomes),
                "each of those that were missing is written",
            )
        lines: list[tuple[object, ...]] = []
        spread: dict[str, int] = {}
        nodes = set()
        for name in FIVE:
            with self.router.read(after=token, token_timeout=self.catch_up_seconds) as connection:
                row = connection.execute(
                    "select id, tableoid::regclass::text from tbl_users where first_name = %s "
                    "order by id limit 1",
                    (name,),
                ).fetchone()
            nodes.add(connection.node)
            if row is None:
                self._check(False, f"{name} is found on {connection.node}")
                continue
            key, leaf = row
            spread[leaf] = spread.get(leaf, 0) + 1
            lines.append((name, key, _moment(key), leaf, connection.node))
        self.say(table(("name", "key", "made (read from the key)", "partition", "node"), lines))
        self.say("")
        with self.router.read(after=token, token_timeout=self.catch_up_seconds) as connection:
            leaves = [row[0] for row in connection.execute(_LEAVES)]
        self.say(table(("partition", "of the five"), [(at, spread.get(at, 0)) for at in leaves]))
        self._check(sum(spread.values()) == len(FIVE), "all five are read back")
        self._check_answered_by_replicas(nodes)

    def _check_answered_by_replicas(self, nodes: set[str]) -> None:
        primary = self.router.topology.primary
        self._check(
            bool(nodes) and primary not in nodes,
            f"replicas answered, not the primary: {', '.join(sorted(nodes))}",
        )

    # Eight sales

    def _eight_sales(self) -> None:
        with unit_of_work(self.router) as unit:
            connection = unit.connection
            node = connection.node
            connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
            ids = [sale.order_id for sale in SALES]
            known = {
                row[0]
                for row in connection.execute(
                    "select order_id from sales where order_id = any(%s)", (ids,)
                )
            }
            missing = [sale for sale in SALES if sale.order_id not in known]
            for sale in missing:
                add_sale(unit, sale)
        token = unit.token()
        self._title(f"2. Eight sales of 2023-24: {_done(len(missing), len(SALES), node)}")

        with self.router.read(after=token, token_timeout=self.catch_up_seconds) as connection:
            found = connection.execute(
                "select extract(year from order_date)::int::text, tableoid::regclass::text, "
                "count(*), sum(order_amount) from sales "
                "where order_id = any(%s) group by 1, 2 order by 1, 2",
                (ids,),
            ).fetchall()
            rows = connection.execute(
                "select order_id, order_date, order_amount from sales where order_id = any(%s) "
                "order by 1, 2",
                (ids,),
            ).fetchall()
            months = sales_by_month(connection, SALES[0].order_date, SALES[-1].order_date)
        self.say(
            table(
                ("year", "partition", "sales", "sum", "node"),
                [
                    (year, leaf, count, float(total), connection.node)
                    for year, leaf, count, total in found
                ],
            )
        )
        self._months(months)
        self._check(
            rows == [astuple(sale) for sale in SALES],
            "the eight sales are there once each, as written",
        )
        self._check(
            [(year, leaf, total) for year, leaf, _, total in found] == _sums_per_year(),
            "each year's sum is right and lies in its own partition",
        )
        self._check_answered_by_replicas({connection.node})

    def _months(self, months: Sequence[SalesMonth]) -> None:
        """All sales of the two years, also those of others."""
        self.say("")
        self.say(
            table(
                ("month", "sales", "sum", "running total", "average of 3", "% of its year"),
                [
                    (
                        f"{month.month:%Y-%m}",
                        month.orders,
                        float(month.amount),
                        float(month.running_total),
                        float(month.moving_average),
                        None if month.share_of_year is None else float(100 * month.share_of_year),
                    )
                    for month in months
                    if month.orders
                ],
            )
        )
        self._check(
            months[-1].running_total == sum(month.amount for month in months),
            "the running total ends with the sum of all months",
        )

    # Many users

    def _many_users(self) -> None:
        with self.router.read("strong") as connection:
            row = connection.execute(
                "select count(*) from tbl_users where first_name <> all(%s)", (list(FIVE),)
            ).fetchone()
        present = row[0] if row else 0
        missing = max(0, self.rows - present)
        self._title(f"3. {self.rows:,} users, {present:,} of them already there")
        if missing:
            loaded = load_users(self.router, missing, random=self.random, clock=self.clock)
            pace = loaded.rows / max(loaded.seconds, 0.001)
            self.say(
                f"  {loaded.rows:,} rows loaded into {loaded.node} with COPY in "
                f"{loaded.seconds:.1f} s ({pace:,.0f} rows/s)."
            )
        else:
            self.say("  Nothing to load.")
        token = self.router.token()
        committed = self.clock()
        waited = self._wait_for_replicas(token, committed)
        # Whoever writes while we compare gets a later key, and is left out on every node alike.
        last = new_key()
        self._spread(last, token)
        self._same_everywhere(last, token, waited)

    def _wait_for_replicas(self, token: Token, committed: float) -> dict[str, float]:
        """Seconds from the commit until each replica was seen to have it."""
        waited = {}
        for state in self.router.topology.nodes:
            if state.role is Role.REPLICA:
                try:
                    with self.router.read(
                        node=state.node, after=token, token_timeout=self.catch_up_seconds
                    ):
                        waited[state.node] = self.clock() - committed
                except RoutingError as error:
                    self.say(f"  {error}")
        self.router.refresh()
        return waited

    def _spread(self, last: UUID, token: Token) -> None:
        with self.router.read(after=token, token_timeout=self.catch_up_seconds) as connection:
            leaves = connection.execute(_ROWS_PER_LEAF, (last,)).fetchall()
        if not leaves:
            self._check(False, "tbl_users is divided into partitions")
            return
        total = sum(count for _, count in leaves) or 1
        self.say(
            table(
                ("partition", "rows", "share in %", "node"),
                [(leaf, count, 100 * count / total, connection.node) for leaf, count in leaves],
            )
        )
        even = 100 / len(leaves)
        worst = max(abs(100 * count / total - even) for _, count in leaves)
        # A small table is spread by chance: five standard deviations are no finding.
        limit = max(1.0, 5 * (even * (100 - even) / total) ** 0.5)
        self._check(
            worst <= limit,
            f"each partition holds {even:.0f} % of the rows, give or take {limit:.0f} % "
            f"(furthest off: {worst:.2f} %)",
        )

    def _same_everywhere(self, last: UUID, token: Token, waited: Mapping[str, float]) -> None:
        lines: list[tuple[object, ...]] = []
        for state in self.router.topology.nodes:
            try:
                with self.router.read(node=state.node, after=token) as connection:
                    row = connection.execute(_FINGERPRINT, (last,)).fetchone()
            except RoutingError as error:
                self.say(f"  {error}")
                continue
            rows, fingerprint = row or (0, 0)
            hexadecimal = f"{int(fingerprint) & 0xFFFF_FFFF_FFFF_FFFF:016x}"
            lines.append((state.node, state.role, rows, hexadecimal, waited.get(state.node)))
        self.say("")
        self.say(table(("node", "role", "rows", "hash of all rows", "caught up after s"), lines))
        everyone = {state.node for state in self.router.topology.nodes}
        self._check(
            {line[0] for line in lines} == everyone and len({line[2:4] for line in lines}) == 1,
            f"the same rows with the same hash on every node, "
            f"{max(waited.values(), default=0.0):.2f} s after the last commit",
        )


def _done(written: int, of: int, node: str) -> str:
    if written == 0:
        return "already there, kept"
    if written == of:
        return f"written to {node}"
    return f"{written} written to {node}, {of - written} already there"


def _moment(key: UUID) -> str:
    try:
        return created_at(key).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
    except ValueError:
        return "not a UUIDv7"


def _sums_per_year() -> list[tuple[str, str, Decimal]]:
    years = sorted({sale.order_date.year for sale in SALES})
    return [
        (
            str(year),
            f"sales_{year}",
            sum((s.order_amount for s in SALES if s.order_date.year == year), Decimal(0)),
        )
        for year in years
    ]
