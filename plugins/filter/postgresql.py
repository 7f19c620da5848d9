"""Text for PostgreSQL's configuration files."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from ansible.errors import AnsibleFilterError


def postgresql_value(value: object) -> str:
    """A setting's value as postgresql.conf wants it: on, off, a number, or quoted text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value)
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return text
    return "'" + text.replace("'", "''") + "'"


def postgresql_conninfo(parameters: dict[str, object]) -> str:
    """Connection parameters as libpq reads them, each value quoted, sorted by name."""
    return " ".join(
        "{}='{}'".format(name, str(value).replace("\\", "\\\\").replace("'", "\\'"))
        for name, value in sorted(parameters.items())
    )


def _network(address: str) -> str:
    """An address as the access rules want it: with its prefix length."""
    try:
        return str(ipaddress.ip_network(address))
    except ValueError:
        if re.fullmatch(r"\.?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", address):
            return address
        raise AnsibleFilterError(
            f"'{address}' is neither an address, a network, a host name nor a name in postgresql_address_aliases."
        ) from None


def postgresql_access_lines(rule: dict[str, Any], aliases: dict[str, list[str]]) -> list[str]:
    """The lines of pg_hba.conf for one rule: one for each address, in order, none twice."""
    subject = f"{','.join(rule['databases'])} {','.join(rule['users'])}"
    ending = " ".join([rule["method"], *rule.get("options", [])])
    if "addresses" not in rule:
        return [f"local {subject} {ending}"]
    kind = rule.get("type", "host")
    addresses: list[str] = []
    for address in rule["addresses"]:
        addresses += aliases.get(address, [address])
    return [f"{kind} {subject} {network} {ending}" for network in dict.fromkeys(map(_network, addresses))]


def postgresql_refused_settings(settings: dict[str, Any], required: dict[str, Any], permitted: dict[str, Any]) -> list[str]:
    """The names in `settings` whose value is neither the required one nor among the permitted ones."""
    allowed = {name: [value] for name, value in required.items()} | permitted
    return sorted(
        name for name, value in settings.items()
        if name in allowed and postgresql_value(value) not in map(postgresql_value, allowed[name])
    )


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "postgresql_access_lines": postgresql_access_lines,
            "postgresql_conninfo": postgresql_conninfo,
            "postgresql_refused_settings": postgresql_refused_settings,
            "postgresql_value": postgresql_value,
        }
