"""What the doctor says: findings with a verdict, and what to do about them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, and may not under load, attack or after a failover
    PROBLEM = "problem"  # something does not work, or will not be done by the router


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one node, or about the whole fleet when ``node`` is None.

    ``advice`` says what to do; it is empty when all is well.
    """

    verdict: Verdict
    says: str
    advice: str = ""
    node: str | None = None
    check: str = ""


def ok(says: str, *, node: str | None = None) -> Finding:
    """All is well."""
    return Finding(Verdict.OK, says, node=node)


def warning(says: str, advice: str, *, node: str | None = None) -> Finding:
    """Worth knowing."""
    return Finding(Verdict.WARNING, says, advice, node)


def problem(says: str, advice: str, *, node: str | None = None) -> Finding:
    """Something has to be done."""
    return Finding(Verdict.PROBLEM, says, advice, node)
