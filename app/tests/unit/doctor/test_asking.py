"""What the doctor finds without a PostgreSQL server: names, ports, passfiles, the clock."""

from __future__ import annotations

import socket
import threading
from itertools import product
from pathlib import Path

import pytest
from psycopg import pq
from psycopg.conninfo import make_conninfo

from pgroute.config import Node
from pgroute.doctor.asking.certificates import ask_tls
from pgroute.doctor.asking.network import reach
from pgroute.doctor.asking.passfiles import examine, fits, line_for, passfile_of
from tests.unit.doctor.fleets import settings

WANTED = ("pg1", "5432", "app", "app_ro")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("pg1:5432:app:app_ro:secret", True),
        ("*:*:*:*:secret", True),
        ("*:*:app:app_ro:", True),
        ("pg2:*:*:*:secret", False),
        ("pg1:5432:app:app_rw:secret", False),
        ("pg1:5432:app:app_ro", False),
        ("pg1:5432:app", False),
        ("", False),
        (r"p\g1:5432:app:app_ro:secret", True),
        (r"\*:5432:app:app_ro:secret", False),
    ],
)
def test_which_lines_of_a_passfile_fit(line: str, wanted: bool) -> None:
    assert fits(line.encode(), WANTED) is wanted


def secret(path: Path, host: str) -> str:
    """The password that libpq itself takes from the file; it does not get as far as connecting."""
    options = make_conninfo(
        host=host, port=5432, dbname="app", user="app_ro", passfile=str(path), sslmode="none-such"
    )
    return pq.PGconn.connect_start(options.encode()).password.decode()


@pytest.mark.parametrize("host", ["a", "a:", "::1", "*", "\\", "ä"])
def test_a_line_fits_where_libpq_takes_its_password(tmp_path: Path, host: str) -> None:
    path = tmp_path / "pass"
    path.touch(mode=0o600)
    for length in range(5):
        for letters in product(f":\\*{host[0]}", repeat=length):
            line = f"{''.join(letters)}{host[1:]}:5432:app:app_ro:secret"
            path.write_text(f"{line}\n")
            taken = secret(path, host) == "secret"
            assert fits(line.encode(), (host, "5432", "app", "app_ro")) is taken, line


def test_the_first_line_that_fits_counts(tmp_path: Path) -> None:
    def number(lines: str, host: str = "pg1") -> int | None:
        path = tmp_path / "pass"
        path.touch(mode=0o600)
        path.write_text(lines)
        return line_for(examine(path), Node("pg1", host, 5432), "app", "app_ro")

    lines = "#*:*:*:*:a\npg2:*:*:*:b\npg1:*:*:*:c\n*:*:*:*:d\nlocalhost:*:*:*:e\n"
    assert number(lines) == 3
    assert number("pg2:*:*:*:a\x0bb\x85\r\r\n" + lines) == 4
    assert number("::1:5432:*:*:e\n", host="::1") == 1


def test_a_socket_directory_in_a_passfile(tmp_path: Path) -> None:
    """libpq looks for localhost only when the directory is the one it was built with."""
    path = tmp_path / "pass"
    path.touch(mode=0o600)
    passfile = examine(path)
    for directory in (passfile.socket_directory, "/elsewhere", f"{passfile.socket_directory}/"):
        path.write_text(f"{directory}:*:*:*:a\nlocalhost:*:*:*:b\n")
        line = line_for(passfile, Node("pg1", directory, 5432), "app", "app_ro")
        assert line == {"a": 1, "b": 2}[secret(path, directory)]


def test_the_socket_directory_is_not_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "/elsewhere")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    assert examine(Path("/nowhere")).socket_directory in ("/tmp", "/var/run/postgresql")  # noqa: S108


def test_no_line_of_a_passfile_that_libpq_ignores_counts(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    path.write_text("*:*:*:*:a\n")
    node = Node("pg1", "pg1", 5432)
    path.chmod(0o644)
    assert line_for(examine(path), node, "app", "app_ro") is None
    path.chmod(0o600)
    assert line_for(examine(path), node, "app", "app_ro") == 1
    assert line_for(examine(tmp_path / "none"), node, "app", "app_ro") is None


def test_why_a_passfile_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    assert examine(path).failure == "No such file or directory"
    path.touch(mode=0o640)
    assert examine(path).failure == "libpq ignores it: others can read it"
    path.chmod(0o600)
    assert examine(path).failure is None
    assert examine(tmp_path).failure == "it is not a file"


def test_whose_passfile_it_is(tmp_path: Path) -> None:
    path = tmp_path / "own"
    path.touch(mode=0o600)
    assert passfile_of(settings(passfile=path), {"PGPASSFILE": "/other"}) == path
    assert passfile_of(settings(), {"PGPASSFILE": "/other"}) == Path("/other")
    assert passfile_of(settings(), {}) == Path.home() / ".pgpass"


def test_an_open_port_is_reached_and_a_closed_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = reach(Node("a", "127.0.0.1", port), 30).addresses
        assert [(each.family, each.address) for each in found] == [("IPv4", "127.0.0.1")]
        assert found[0].seconds is not None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens, and nobody else may
        closed = reach(Node("a", "127.0.0.1", taken.getsockname()[1]), 30).addresses
    assert [each.failure for each in closed] == ["Connection refused"]


def test_a_socket_directory_is_no_host(tmp_path: Path) -> None:
    node = Node("a", str(tmp_path), 5432)
    found = reach(node, 1).addresses[0]
    assert (found.family, found.failure) == ("socket", "No such file or directory")
    assert ask_tls(node, 1).offered is None


def test_a_name_that_cannot_be_one() -> None:
    assert reach(Node("a", "no-such-host.invalid", 5432), 5).failure
    assert reach(Node("a", "x" * 70 + ".example", 5432), 5).failure


@pytest.mark.parametrize(("reply", "offered"), [(b"N", False), (b"", None), (b"E", None)])
def test_a_server_that_does_not_offer_tls(reply: bytes, offered: bool | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(8)
                client.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        found = ask_tls(Node("a", "127.0.0.1", server.getsockname()[1]), 30)
        thread.join()
    assert found.offered is offered
    assert (found.failure is None) is (offered is False)
