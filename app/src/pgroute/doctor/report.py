"""The doctor's report, for people and for machines. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pgroute.doctor.findings import Finding, Verdict
from pgroute.text import table


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]
    nodes: tuple[str, ...]

    def count(self, verdict: Verdict) -> int:
        """How many findings have this verdict."""
        return sum(1 for found in self.findings if found.verdict is verdict)

    @property
    def summary(self) -> str:
        """One sentence."""
        checks = len({found.check for found in self.findings})
        problems, warnings = self.count(Verdict.PROBLEM), self.count(Verdict.WARNING)
        return (
            f"{_counted(checks, 'check')} on {_counted(len(self.nodes), 'node')}: "
            f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}"
        )

    def text(self) -> str:
        """A table of all findings, then what to do."""
        rows = [
            (found.check, nodes, found.verdict, found.says)
            for found, nodes in _together(self.findings)
        ]
        parts = [table(("check", "node", "verdict", "finding"), rows, indent=0), self._advice()]
        return "\n\n".join([*(part for part in parts if part), self.summary])

    def json(self) -> str:
        """The same for machines."""
        return json.dumps(
            {
                "well": self.count(Verdict.PROBLEM) == 0,
                "problems": self.count(Verdict.PROBLEM),
                "warnings": self.count(Verdict.WARNING),
                "nodes": list(self.nodes),
                "findings": [
                    {
                        "check": found.check,
                        "node": found.node,
                        "verdict": found.verdict,
                        "finding": found.says,
                        "advice": found.advice or None,
                    }
                    for found in self.findings
                ],
            },
            indent=2,
        )

    def _advice(self) -> str:
        bad = [
            (found, nodes)
            for verdict in (Verdict.PROBLEM, Verdict.WARNING)
            for found, nodes in _together(self.findings)
            if found.verdict is verdict
        ]
        lines = [
            f"{number}. {nodes + ': ' if found.node else ''}{found.says}\n   -> {found.advice}"
            for number, (found, nodes) in enumerate(bad, 1)
        ]
        return "\n".join(["What to do:", *lines]) if lines else ""


def _together(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """Findings that differ in their node only are told once."""
    nodes: dict[tuple[str, Verdict, str, str], list[Finding]] = {}
    for found in findings:
        nodes.setdefault((found.check, found.verdict, found.says, found.advice), []).append(found)
    return [
        (same[0], " ".join(each.node for each in same if each.node is not None) or "-")
        for same in nodes.values()
    ]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
