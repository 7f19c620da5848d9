"""What a standby shows and its primary does not yet.

A standby shows a commit once it is replayed; the primary, when the backend that commits runs on
after writing it: after a synchronous standby's answer, or, on a busy machine, when it is its turn.
Until then the backend holds its transaction's lock, so the primary tells which commits those may
be. Who waits for its client or for a lock is not committing; who waits for a synchronous standby
surely is; any other one may be, or is in the middle of a long statement: nobody can tell. So it is
waited for, but not for long.
"""

from __future__ import annotations

COMMITTING_SECONDS = 0.5  # after the read on the standby: who is not done by then has long to do
PAUSE_SECONDS = 0.002
# Without the role's privileges the waits of others are unknown, and count as the last kind. Text:
# rows are whatever the user's row factory makes of them.
UNDER_WAY = """
select string_agg(l.transactionid::text
                  || case when a.wait_event = 'SyncRep' then '!' else '' end, ' ')
  from pg_locks l left join pg_stat_activity a using (pid)
 where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
   and a.wait_event is distinct from 'ClientRead' and a.wait_event_type is distinct from 'Lock'
"""


class Unshown:
    """The transactions that may have been read on a standby; asked for after that read."""

    def __init__(self) -> None:
        self._known: set[str] | None = None

    def narrow(self, under_way: str | None, *, patient: bool) -> list[str]:
        """Those of the first answer to ``UNDER_WAY`` that are in this one, too; without
        patience, those that surely commit."""
        surely = {name.rstrip("!"): name.endswith("!") for name in (under_way or "").split()}
        known = surely.keys() if self._known is None else self._known & surely.keys()
        self._known = set(known)
        return [name for name in known if patient or surely[name]]
