"""Can the hosts be found and reached? Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pgroute.doctor.facts import Facts, NodeFacts
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.limits import Limits


def judge_names(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Each host has an address; both families are shown."""
    for node in facts.nodes:
        host, reach = node.node.host, node.reach
        if reach.failure is not None:
            yield problem(
                f"the host name {host} has no address: {reach.failure}",
                f"correct {host} in PGROUTE_NODES or the DSN, or add it to DNS or /etc/hosts",
                node=node.name,
            )
        else:
            found = ", ".join(f"{each.address} ({each.family})" for each in reach.addresses)
            yield ok(found, node=node.name)


def judge_reach(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Each address takes TCP connections."""
    for node in facts.nodes:
        if node.reach.addresses:
            yield _reach(node)


def _reach(node: NodeFacts) -> Finding:
    addresses, port = node.reach.addresses, node.node.port
    failed = [each for each in addresses if each.failure is not None]
    words = "; ".join(f"{each.address} port {port}: {each.failure}" for each in failed)
    if len(failed) == len(addresses):
        return problem(
            f"no connection: {words}",
            "start the server, and compare its port, listen_addresses and any firewall between",
            node=node.name,
        )
    if failed:
        return warning(
            f"one of its addresses does not answer: {words}",
            f"remove that address from the name {node.node.host}, or let the server listen on it: "
            "each new connection may try it first",
            node=node.name,
        )
    slowest = max(each.seconds or 0.0 for each in addresses)
    return ok(f"connected within {slowest * 1000:.1f} ms", node=node.name)
