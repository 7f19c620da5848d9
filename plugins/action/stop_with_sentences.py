"""End the run when there is something to say: one sentence a line, and nothing when the list is empty."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Takes problems, a list of sentences, and fails when it is not empty."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        problems = list(self._task.args.get("problems") or [])
        return {"changed": False, "failed": bool(problems), "msg": "\n".join(problems)}
