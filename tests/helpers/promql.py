"""The series that a PromQL expression reads."""

import re
from dataclasses import dataclass

_KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_TOKEN = re.compile(r'(?P<name>[a-zA-Z_:][\w:]*)\s*(?P<call>\()?(?P<matchers>\{[^}]*\})?|\d[\w.]*|"(?:[^"\\]|\\.)*"|\[[^]]*\]')


@dataclass(frozen=True)
class Series:
    """A selector: the metric's name, and the matchers as written."""

    name: str
    matchers: str = ""

    def __str__(self) -> str:
        return self.name + self.matchers


def series_of(expression: str) -> list[Series]:
    """Every selector in the expression, in order; functions, keywords, durations and labels are left out."""
    found = []
    for token in _TOKEN.finditer(_GROUPING.sub(" ", expression)):
        name = token["name"]
        if name and not token["call"] and name.lower() not in _KEYWORDS:
            found.append(Series(name, token["matchers"] or ""))
    return found
