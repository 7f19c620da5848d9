"""Asks a server for TLS as libpq does, and reads its certificate without trusting it."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pgroute.config import Node
from pgroute.doctor.facts import Certificate, Tls

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME: an expired certificate is to be read, not refused.
_NO_CHECK_TIME = 0x200000


def ask_tls(node: Node, limit: float) -> Tls:
    """Whether the node offers TLS, and with which certificate."""
    if node.host.startswith("/"):
        return Tls()
    try:
        with socket.create_connection((node.host, node.port), limit) as plain:
            if not _offers(plain):
                return Tls(offered=False)
    except OSError as error:
        return Tls(failure=str(error))
    try:
        return Tls(True, _read(node, limit))
    except (OSError, ValueError) as error:
        return Tls(True, failure=str(error))


def _read(node: Node, limit: float) -> Certificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _encrypted(node, limit, context) as connection:
        encoded = connection.getpeercert(binary_form=True)
    if encoded is None:
        raise ValueError("it showed no certificate")
    # The fields are told only of a certificate that was verified: here, against itself.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=encoded)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    with _encrypted(node, limit, context) as connection:
        return _understood(connection.getpeercert() or {})


@contextmanager
def _encrypted(node: Node, limit: float, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with socket.create_connection((node.host, node.port), limit) as plain:
        if not _offers(plain):
            raise ValueError("it offers TLS no more")
        with context.wrap_socket(plain, server_hostname=node.host) as connection:
            yield connection


def _offers(plain: socket.socket) -> bool:
    plain.sendall(_SSL_REQUEST)
    answer = plain.recv(1)
    if answer not in (b"S", b"N"):
        raise ConnectionError("the server answered neither yes nor no")
    return answer == b"S"


def _understood(fields: dict[str, Any]) -> Certificate:
    named = [value for kind, value in fields.get("subjectAltName", ()) if kind == "DNS"]
    addresses = [value for kind, value in fields.get("subjectAltName", ()) if kind == "IP Address"]
    if not named:
        named = [value for (key, value), *_ in fields["subject"] if key == "commonName"]
    return Certificate(
        names=(*named, *addresses),
        issuer=", ".join(value for (_, value), *_ in fields["issuer"]),
        begins=_moment(fields["notBefore"]),
        ends=_moment(fields["notAfter"]),
    )


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
