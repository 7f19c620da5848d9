"""The options of every module that talks to the host's own PostgreSQL server."""

from __future__ import annotations


class ModuleDocFragment:
    """Equal to CONNECTION_ARGUMENTS of module_utils/postgresql_connection.py."""

    DOCUMENTATION = r"""
options:
  socket_directory:
    description: Where the server's socket is.
    type: str
    default: /var/run/postgresql
  port:
    description: The server's port.
    type: int
    default: 5432
  login_user:
    description: The local superuser, and the user of the operating system that owns the server and its files.
    type: str
    default: postgres
"""
