"""The page's files, its stream, and what every answer carries; no browser and no server."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest
from starlette.testclient import TestClient

from pgroute import AsyncRouter, NoReadableNode, Reason, Role, Settings, Topology
from pgroute.core.topology import Answer, Silence, decide
from pgroute.observing.metrics import RouterMetrics
from pgroute.service import live, make_app
from pgroute.service.partitions import Partition
from pgroute.service.store import Read

STATIC = files("pgroute.service").joinpath("static")
NAMES = ("index.html", "page.css", "page.js", "icon.svg")


# The files


class Elements(HTMLParser):
    """Every element with its attributes, and the text that lies in scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style"):
            self.inline += data.strip()


@pytest.fixture(scope="module")
def elements() -> Elements:
    parser = Elements()
    parser.feed(STATIC.joinpath("index.html").read_text())
    return parser


def test_the_page_needs_no_inline_script_or_style(elements: Elements) -> None:
    assert elements.inline == ""
    attributes = {name for _, attrs in elements.found for name in attrs}
    assert not {name for name in attributes if name == "style" or name.startswith("on")}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_loaded_from_elsewhere(name: str) -> None:
    text = STATIC.joinpath(name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert (
        re.findall(r"""(?:https?:)?//\w[^\s"')]*""", re.sub(r"^\s*//.*$", "", text, flags=re.M))
        == []
    )


def test_nothing_from_the_server_becomes_markup() -> None:
    script = STATIC.joinpath("page.js").read_text()
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script) == []
    )


def test_the_page_can_be_used_without_seeing_it(elements: Elements) -> None:
    tags = [tag for tag, _ in elements.found]
    ids = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert ("html", {"lang": "en"}) in elements.found
    assert tags.count("h1") == 1
    assert len(ids) == len(set(ids))
    for tag, attrs in elements.found:
        if tag == "section":
            assert attrs["aria-labelledby"] in ids
        if tag == "img":
            assert "alt" in attrs
        if tag == "th":
            assert attrs.get("scope") in ("col", "row")


def test_every_reason_is_told_in_words() -> None:
    script = STATIC.joinpath("page.js").read_text()
    table = script[script.index("const REASONS = {") : script.index("};")]
    assert set(re.findall(r"^  (\w+):", table, re.M)) == {reason.value for reason in Reason}


def test_the_wheel_holds_the_page_and_the_schema(tmp_path: Path) -> None:
    project = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        held = set(opened.namelist())
    wanted = {f"pgroute/service/static/{name}" for name in NAMES}
    assert wanted | {"pgroute/examples/shop/schema.sql", "pgroute/py.typed"} <= held


# The stream


class Scripted(AsyncRouter):
    """A router whose servers say what the test says."""

    def __init__(self) -> None:
        super().__init__(
            Settings.make(nodes="pg1=h:1,pg2=h:2,pg3=h:3", database="app", write_user="app")
        )
        self.fleet.topology = decide(
            [
                Answer("pg1", False, 1, 2**60, 1000, False),
                Answer("pg2", True, 1, 2**60, 990, True),
                Silence("pg3", "connection refused"),
            ],
            max_lag_bytes=100,
        )
        self.fleet.primary, self.fleet.replicas = "pg1", ("pg2",)
        self.fleet.asked_since = lambda moment: lambda: self.told_at >= moment  # type: ignore[method-assign]
        self.told_at = math.inf
        self.trouble: Exception | None = None
        self.refreshed = 0
        self.closings = 0

    async def refresh(self) -> Topology:
        self.refreshed += 1
        if self.trouble is not None:
            raise self.trouble
        return self.topology

    async def close(self, timeout: float = 5.0) -> None:
        self.closings += 1


class Shelf:
    """What it asks of a store."""

    trouble: Exception | None = None
    leaves: tuple[Partition, ...] = (
        Partition("sales", "sales_2024", "FOR VALUES ...", None, 8192),
    )

    async def partitions(self) -> Read[list[Partition]]:
        if self.trouble is not None:
            raise self.trouble
        return Read(list(self.leaves), "pg2")


def watching(fleet: Scripted, shelf: Shelf, metrics: RouterMetrics | None = None) -> live.Live:
    registry = (metrics or RouterMetrics(("pg1", "pg2", "pg3"))).registry
    return live.Live(fleet, registry, shelf, seconds=0.01)  # type: ignore[arg-type]


async def pictures(stream: live.Live, count: int) -> list[dict[str, Any]]:
    found = []
    events = stream.events()
    async for event in events:
        if event.startswith(b"data: "):
            assert event.endswith(b"\n\n")
            assert event.count(b"\n") == 2
            found.append(json.loads(event.removeprefix(b"data: ")))
            if len(found) == count:
                break
    await events.aclose()  # type: ignore[attr-defined]
    return found


def test_a_picture_holds_roles_lag_routes_and_partitions() -> None:
    async def look() -> dict[str, Any]:
        metrics = RouterMetrics(("pg1", "pg2", "pg3"))
        metrics.routed("pg2", Role.REPLICA, Reason.READ)
        stream = watching(Scripted(), Shelf(), metrics)
        (picture,) = await pictures(stream, 1)
        await stream.close()
        return picture

    picture = asyncio.run(look())
    topology = picture["topology"]
    assert topology["system_identifier"] == str(2**60)  # as text: JavaScript would round it
    parts = ("name", "address", "role", "lag_bytes", "lag_seconds", "in_use", "breaker")
    assert [tuple(node[part] for part in parts) for node in topology["nodes"]] == [
        ("pg1", "h:1", "primary", 0, None, True, "closed"),
        ("pg2", "h:2", "replica", 10, None, True, "closed"),
        ("pg3", "h:3", "unknown", None, None, False, "closed"),
    ]
    assert picture["routed"] == [{"node": "pg2", "role": "replica", "reason": "read", "count": 1}]
    assert picture["partitions"]["node"] == "pg2"
    assert picture["partitions"]["leaves"][0]["rows"] is None


def test_viewers_share_one_look_and_nobody_looks_for_nobody() -> None:
    async def look() -> tuple[int, int, int]:
        fleet = Scripted()
        stream = watching(fleet, Shelf())
        shown = await asyncio.gather(*(pictures(stream, 3) for _ in range(20)))
        numbers = {picture["number"] for seen in shown for picture in seen}
        looking = stream._looking
        assert looking is not None
        await asyncio.wait_for(looking, 60)  # ends by itself: the last viewer has gone
        return len(numbers), fleet.refreshed, len(shown)

    numbers, refreshed, viewers = asyncio.run(look())
    assert viewers == 20
    assert numbers <= refreshed < 20


@pytest.mark.parametrize("how", ["the look fails", "nobody asks the servers any more"])
def test_what_cannot_be_seen_is_no_event_instead_of_an_old_one(how: str) -> None:
    async def look() -> list[int]:
        fleet = Scripted()
        stream = watching(fleet, Shelf())
        events = stream.events()
        seen = []
        async for event in events:
            if not event.startswith(b"data: "):
                continue
            seen.append(json.loads(event.removeprefix(b"data: "))["number"])
            if len(seen) == 2:
                break
            if how == "the look fails":
                fleet.trouble = NoReadableNode("on purpose")
            else:
                fleet.told_at = fleet.clock() - 60
            before = fleet.refreshed
            waiting = asyncio.ensure_future(stream._next.wait())
            while fleet.refreshed < before + 3:
                await asyncio.sleep(0.001)
            assert not waiting.done()
            fleet.trouble, fleet.told_at = None, math.inf
            await waiting
        await events.aclose()  # type: ignore[attr-defined]
        await stream.close()
        return seen

    first, second = asyncio.run(look())
    assert second > first


def test_partitions_that_cannot_be_asked_are_told_as_old() -> None:
    async def look() -> tuple[dict[str, Any], dict[str, Any]]:
        shelf = Shelf()
        stream = watching(Scripted(), shelf)
        (good,) = await pictures(stream, 1)
        shelf.trouble = psycopg.OperationalError("secret-host")
        stream._partitions_due = 0
        (bad,) = await pictures(stream, 1)
        await stream.close()
        return good["partitions"], bad["partitions"]

    good, bad = asyncio.run(look())
    assert good["problem"] is None
    assert bad["problem"] == "The database's connection was lost"
    assert (bad["leaves"], bad["asked_at"]) == (good["leaves"], good["asked_at"])


def test_a_partition_that_is_dropped_meanwhile_is_left_out() -> None:
    async def look() -> list[str]:
        shelf = Shelf()
        shelf.leaves += (Partition("sales", "sales_2025", "FOR VALUES ...", 5, None),)
        stream = watching(Scripted(), shelf)
        (told,) = await asyncio.wait_for(pictures(stream, 1), 10)
        await stream.close()
        return [leaf["name"] for leaf in told["partitions"]["leaves"]]

    assert asyncio.run(look()) == ["sales_2024"]


def test_the_end_ends_every_stream() -> None:
    async def look() -> None:
        stream = watching(Scripted(), Shelf())
        viewers = [asyncio.ensure_future(pictures(stream, 10**9)) for _ in range(3)]
        await pictures(stream, 1)
        for _ in range(20):
            await asyncio.sleep(0)  # until every viewer waits for the next picture
        stream.end()
        await asyncio.wait_for(asyncio.gather(*viewers), 60)
        await stream.close()

    asyncio.run(look())


# What every answer carries


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = make_app(Scripted(), RouterMetrics(("pg1",)))
    with TestClient(app) as opened:
        yield opened


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
        ("/topology", "application/json"),
        ("/nothing", "application/problem+json"),
    ],
)
def test_every_answer_keeps_the_browser_from_what_the_page_does_not_need(
    client: TestClient, path: str, media_type: str
) -> None:
    answer = client.get(path)
    assert answer.headers["content-type"].split(";")[0] == media_type
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_topology_is_told_as_json(client: TestClient) -> None:
    told = client.get("/topology").json()
    assert (told["primary"], told["replicas"], told["problem"]) == ("pg1", ["pg2"], None)
    assert [node["role"] for node in told["nodes"]] == ["primary", "replica", "unknown"]


def test_too_many_viewers_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "VIEWERS", 0)
    answer = client.get("/live")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:pgroute:too-many-viewers")


def test_viewers_are_counted_when_they_are_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "VIEWERS", 2)

    async def look() -> list[bool]:
        stream = watching(Scripted(), Shelf())
        seen = [stream.full]
        for _ in range(2):
            live.Watching(stream)
            seen.append(stream.full)
        return seen

    assert asyncio.run(look()) == [False, False, True]


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_a_viewer_that_takes_in_no_more_leaves_its_seat(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(live, "_SEND_SECONDS", 0.05)

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def stall(_: Any) -> None:
        await asyncio.sleep(60)

    async def look() -> tuple[int, int]:
        stream = watching(Scripted(), Shelf())
        viewer = live.Watching(stream)
        scope = {"type": "http", "asgi": {"spec_version": version}}
        await asyncio.wait_for(viewer(scope, receive, stall), 10)
        return stream.seats, stream._viewers

    assert asyncio.run(look()) == (0, 0)


def test_the_documentation_that_loads_from_elsewhere_is_off(client: TestClient) -> None:
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
