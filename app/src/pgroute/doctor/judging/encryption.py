"""Is what goes over the network encrypted, and by whom? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from ipaddress import ip_address

from pgroute.doctor.facts import Certificate, Facts, NodeFacts, Purpose
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.limits import Limits

_CHECKED = ("verify-ca", "verify-full")
_ADVICE = "set sslmode=verify-full and sslrootcert in the DSN"


def judge_encryption(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Connections are encrypted, and the server's certificate is checked."""
    for node in facts.nodes:
        sessions = [each for each in map(node.session, Purpose) if each is not None]
        if not sessions:
            continue
        if not all(session.encrypted for session in sessions):
            yield _plain(node)
            continue
        how = f"{sessions[0].tls_version or 'TLS'}, sslmode={node.sslmode}"
        if node.sslmode in _CHECKED:
            yield ok(f"encrypted: {how}", node=node.name)
        else:
            yield warning(
                f"encrypted ({how}), but nobody checks that it is the right server",
                _ADVICE,
                node=node.name,
            )


def _plain(node: NodeFacts) -> Finding:
    if node.is_local:
        return ok("NOT encrypted, but the connection stays on this machine", node=node.name)
    says = f"the connection is NOT encrypted (sslmode={node.sslmode})"
    if node.tls.offered:
        return warning(f"{says}, though the server offers TLS", _ADVICE, node=node.name)
    if node.tls.offered is None:
        return warning(
            f"{says}, and whether the server offers TLS was not heard: {node.tls.failure}",
            "ask again, or look there (show ssl), then " + _ADVICE,
            node=node.name,
        )
    return warning(
        f"{says}: the server has no TLS",
        "set ssl = on with a certificate on the server, then " + _ADVICE,
        node=node.name,
    )


def judge_certificates(facts: Facts, limits: Limits) -> Iterator[Finding]:
    """Certificates are valid now and for a while, and name the host."""
    for node in facts.nodes:
        if node.tls.certificate is not None:
            yield from _certificate(facts, limits, node, node.tls.certificate)
        elif node.tls.offered and node.tls.failure is not None:
            host = f"[{node.node.host}]" if ":" in node.node.host else node.node.host
            yield warning(
                f"its certificate could not be read: {node.tls.failure}",
                f"look at it with: openssl s_client -starttls postgres -connect {host}:"
                f"{node.node.port}",
                node=node.name,
            )


def _certificate(
    facts: Facts, limits: Limits, node: NodeFacts, certificate: Certificate
) -> Iterator[Finding]:
    replace = "replace the certificate on the server and reload it (select pg_reload_conf())"
    begins, ends = certificate.begins, certificate.ends
    if facts.now >= ends:
        yield problem(
            f"the certificate expired on {ends:%Y-%m-%d %H:%M} UTC", replace, node=node.name
        )
    elif facts.now < begins:
        yield problem(
            f"the certificate is not valid before {begins:%Y-%m-%d %H:%M} UTC",
            f"compare the clocks, or {replace}",
            node=node.name,
        )
    elif ends - facts.now < timedelta(days=limits.expiry_days):
        days = (ends - facts.now).total_seconds() / 86400
        yield warning(f"the certificate expires in {days:.1f} days", replace, node=node.name)
    else:
        yield ok(f"the certificate is valid until {ends:%Y-%m-%d}", node=node.name)
    if not node.node.host.startswith("/") and not covers(certificate.names, node.node.host):
        names = ", ".join(certificate.names) or "nothing"
        judge = problem if node.sslmode == "verify-full" else warning
        yield judge(
            f"the certificate is for {names}, not for {node.node.host}",
            f"add {node.node.host} to its subjectAltName, or use one of its names as the host",
            node=node.name,
        )


def covers(names: Sequence[str], host: str) -> bool:
    """Whether one of a certificate's names stands for ``host``, as libpq compares them."""
    try:
        wanted = ip_address(host)
    except ValueError:
        return any(_same_name(name.lower(), host.lower()) for name in names)
    return any(_is_address(name) and ip_address(name) == wanted for name in names)


def _same_name(pattern: str, host: str) -> bool:
    if pattern.startswith("*."):
        return host.partition(".")[2] == pattern[2:] and not host.startswith(".")
    return pattern == host


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
