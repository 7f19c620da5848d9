"""The running Prometheus and Alertmanager, asked on their own node: they answer to nobody else on this machine."""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from helpers.fleet import Fleet

# Run on the node: reads [{url, data}], prints what each returned. One connection for any number of questions.
_ASK = """
import json, sys, urllib.request
def answer(question):
    data = question["data"]
    request = urllib.request.Request(question["url"], data.encode() if data else None, {"Content-Type": question["type"]})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.loads(reply.read() or "null")
print(json.dumps([answer(question) for question in json.load(sys.stdin)]))
"""


class Server:
    """An HTTP server of one of the fleet's nodes."""

    def __init__(self, fleet: Fleet, node: str, role: str) -> None:
        variables = fleet.variables(node)
        self._fleet, self._node = fleet, node
        self._address = f"http://{variables[f'{role}_address']}:{variables[f'{role}_port']}"

    def ask(self, questions: Sequence[tuple[str, str]], kind: str) -> list[Any]:
        """The JSON answers to [(path, body)]; an empty body is a GET. Fails when one of them is refused."""
        asked = [{"url": self._address + path, "data": body, "type": kind} for path, body in questions]
        done = self._fleet.run(self._node, ["python3", "-c", _ASK], stdin=json.dumps(asked))
        assert done.returncode == 0, f"{self._address}: {done.stderr.strip().splitlines()[-1:]}"
        return list(json.loads(done.stdout))


    def metric(self, name: str) -> float:
        """What it tells of itself now, without waiting for a scrape."""
        done = self._fleet.run(self._node, ["python3", "-c", "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())",
                                            f"{self._address}/metrics"])
        return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith(f"{name} "))


class Prometheus(Server):
    def __init__(self, fleet: Fleet, node: str) -> None:
        super().__init__(fleet, node, "prometheus")

    def api(self, path: str) -> Any:
        """The data of a GET under /api/v1/."""
        return self.ask([(f"/api/v1/{path}", "")], "")[0]["data"]

    def query(self, *expressions: str) -> list[list[dict[str, Any]]]:
        """For each expression the series it returns now: [{"metric": labels, "value": [time, text]}]."""
        questions = [("/api/v1/query", urlencode({"query": expression})) for expression in expressions]
        return [answer["data"]["result"] for answer in self.ask(questions, "application/x-www-form-urlencoded")]

    def value(self, expression: str) -> float | None:
        """The value of an expression that returns one series; None when it returns none."""
        result = self.query(expression)[0]
        assert len(result) <= 1, f"{expression}: {len(result)} series"
        return float(result[0]["value"][1]) if result else None


class Alertmanager(Server):
    def __init__(self, fleet: Fleet, node: str) -> None:
        super().__init__(fleet, node, "alertmanager")

    def post(self, alerts: list[dict[str, Any]]) -> None:
        self.ask([("/api/v2/alerts", json.dumps(alerts))], "application/json")

    def alerts(self) -> list[dict[str, Any]]:
        return list(self.ask([("/api/v2/alerts", "")], "")[0])
