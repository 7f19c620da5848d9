"""Do the users get in? Pure.

libpq gives no SQLSTATE for a refused connection, so the server's English words are looked at; any
others are passed on as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgroute.doctor.facts import Facts, Login, NodeFacts, Passfile
from pgroute.doctor.findings import Finding, ok, problem, warning
from pgroute.doctor.judging.naming import identifier
from pgroute.doctor.limits import Limits

_MANY = "let max_connections or the role's limit grow, or make the pools smaller"
_REFUSALS = (
    ("no pg_hba.conf entry", "add a line for {user}, {database} and this machine to pg_hba.conf"),
    ("pg_hba.conf rejects", "change the line of pg_hba.conf that rejects {user} from this machine"),
    (
        "permission denied for database",
        "grant connect on database {typed_database} to {typed_user}",
    ),
    ("is not permitted to log in", "alter role {typed_user} login"),
    ('role "" does not exist', "create the role {user}, or correct the user's name"),
    ('database "" does not exist', "create the database {database}, or correct its name"),
    ("too many clients", _MANY),
    ("too many connections", _MANY),
    ("connection slots are reserved", _MANY),
    ("starting up", "wait until the server has started, or see its log"),
    ("not accepting connections", "wait until recovery is consistent; a standby needs hot_standby"),
    ("not yet accepting connections", "wait until recovery is consistent, or see the log"),
    ("shutting down", "start the server again, or take the node out of the configuration"),
    ("unsupported startup parameter", "connect to the server itself: a pooler stands between"),
    ("does not support SSL", "set ssl = on on the server, or do not demand TLS with sslmode"),
    ("root certificate file", "put the authority's certificate there, or name it in sslrootcert"),
    ("certificate verify failed", "renew the server's certificate, or give the right sslrootcert"),
    ("certificate has expired", "renew the server's certificate"),
    ("does not match host name", "use the name in the certificate, or make one for this host"),
    ("timeout", "the server takes connections but does not answer: is it frozen or overloaded?"),
)
_PASSFILE = (
    "make the file, owned by this user, with one line host:port:database:user:password "
    "per login, and chmod 0600 it"
)
_DEFAULT = "see the server's log of this moment"


def judge_passfile(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Passwords come from a file that libpq reads."""
    if facts.password_variable:
        yield warning(
            "PGPASSWORD is set: it goes before every passfile, for both users",
            "unset PGPASSWORD and keep the passwords in a passfile of mode 0600",
        )
    if facts.passfile is None:
        return
    path, failure = facts.passfile.path, facts.passfile.failure
    wanted = any(login.failure is not None or _with_password(login) for login in _logins(facts))
    if failure is not None and wanted and not facts.password_variable:
        yield problem(f"the passfile {path}: {failure}", _PASSFILE)
    elif failure is None:
        yield ok(f"passwords come from {path}")


def judge_logins(facts: Facts, _: Limits) -> Iterator[Finding]:
    """Both users get a connection to each node."""
    for node in facts.nodes:
        if not any(each.failure is None for each in node.reach.addresses):
            continue
        if not node.logins:
            continue
        failed = [login for login in node.logins if login.failure is not None]
        seen: set[tuple[str, str | None]] = set()
        for login in failed:
            if (login.user, login.failure) not in seen:
                seen.add((login.user, login.failure))
                yield _refused(facts, node, login)
        if not failed:
            users = " and ".join(dict.fromkeys(login.user for login in node.logins))
            yield ok(f"{users} logged in", node=node.name)
        if node.failure is not None:
            yield problem(f"it did not answer: {node.failure}", _DEFAULT, node=node.name)


def _refused(facts: Facts, node: NodeFacts, login: Login) -> Finding:
    text = login.failure or ""
    if "password authentication failed" in text or "no password supplied" in text:
        return _wrong_password(facts, node, login)
    user, database = login.user, facts.settings.database_name
    without_names = re.sub('"[^"]*"', '""', text)
    advice = next((what for words, what in _REFUSALS if words in without_names), _DEFAULT)
    advice = advice.format(
        user=user,
        database=database,
        typed_user=identifier(user),
        typed_database=identifier(database),
    )
    return problem(f"{user} was not let in: {text}", advice, node=node.name)


def _wrong_password(facts: Facts, node: NodeFacts, login: Login) -> Finding:
    passfile = facts.passfile or Passfile("the passfile")
    path = passfile.path
    if facts.password_variable:
        says = f"{login.user}: the server refused the password of PGPASSWORD"
        return problem(says, "correct PGPASSWORD, or unset it", node=node.name)
    if passfile.failure is not None:
        says = f"{login.user} has no password: {path}: {passfile.failure}"
        return problem(says, _PASSFILE, node=node.name)
    if login.passfile_line is None:
        wanted = passfile.wanted(node.node, facts.settings.database_name, login.user)
        line = ":".join(re.sub(r"([:\\])", r"\\\1", field) for field in wanted)
        return problem(
            f"{login.user} has no password: no line of {path} fits {line}",
            f"add a line {line}:<password> to {path} (* stands for any host, port or database)",
            node=node.name,
        )
    if "no password supplied" in (login.failure or ""):
        number = login.passfile_line
        return problem(
            f"{login.user} has no password: line {number} of {path} fits and has an empty one",
            "complete that line: of all lines that fit libpq takes the first",
            node=node.name,
        )
    again = f"\\password {identifier(login.user)}"
    return problem(
        f"{login.user}: the server refused the password in line {login.passfile_line} of {path}",
        f"correct that line, or set the role's password again ({again})",
        node=node.name,
    )


def _with_password(login: Login) -> bool:
    return login.session is not None and login.session.used_password


def _logins(facts: Facts) -> Iterator[Login]:
    for node in facts.nodes:
        yield from node.logins
