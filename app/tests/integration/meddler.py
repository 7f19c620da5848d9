"""A proxy in front of a server that behaves as poolers do: it gives its own process numbers and
keeps some of what the server reports to itself."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@contextmanager
def meddling(port: int) -> Iterator[int]:
    """The port of a proxy before the server on ``port`` of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener, port), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def _accept(listener: socket.socket, port: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, port), daemon=True).start()


def _serve(client: socket.socket, port: int) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as server, suppress(OSError):
        if client.recv(8, socket.MSG_PEEK) == _SSL_REQUEST:
            client.recv(8)
            client.sendall(b"N")
        threading.Thread(target=_forward, args=(client, server), daemon=True).start()
        while (message := _message(server)) is not None:
            if not message.startswith(b"S") or b"in_hot_standby" not in message:
                client.sendall(_changed(message))


def _changed(message: bytes) -> bytes:
    """BackendKeyData with another process number."""
    return message[:5] + struct.pack("!i", 1) + message[9:] if message[:1] == b"K" else message


def _message(server: socket.socket) -> bytes | None:
    head = _exactly(server, 5)
    if head is None:
        return None
    rest = _exactly(server, struct.unpack("!i", head[1:])[0] - 4)
    return None if rest is None else head + rest


def _exactly(server: socket.socket, count: int) -> bytes | None:
    found = b""
    while len(found) < count:
        part = server.recv(count - len(found))
        if not part:
            return None
        found += part
    return found


def _forward(client: socket.socket, server: socket.socket) -> None:
    with suppress(OSError):
        while part := client.recv(65536):
            server.sendall(part)
        server.shutdown(socket.SHUT_WR)
