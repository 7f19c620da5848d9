"""What a router takes for slow: little where a test freezes a server, much everywhere else.

A machine that is busy with other things keeps a server waiting as long as a real fault would. A
test that is about no such fault must not see one.
"""

from __future__ import annotations

from typing import Any

from pgroute import Settings
from tests.servers import Servers

PATIENT: dict[str, Any] = {
    "eject_after_seconds": 20,
    "probe_timeout_seconds": 20,
    "connect_timeout_seconds": 20,
    "checkout_timeout_seconds": 60,
    "token_timeout_seconds": 10,
}
# As the servers' own settings are: a frozen one is missed in a moment.
WATCHFUL: dict[str, Any] = {"eject_after_seconds": 0.3, "probe_timeout_seconds": 0.5}


class PatientServers(Servers):
    """Servers whose routers wait for them."""

    def settings(self, **options: object) -> Settings:
        return super().settings(**(PATIENT | options))

    @property
    def as_they_are(self) -> Servers:
        """The same ones, with the settings that the benchmarks measure."""
        return Servers(self.container, self.passfile)
