# SCRAM-SHA-256 verifiers as PostgreSQL stores them (RFC 5802, RFC 7677).
"""Make and check `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import stringprep
import unicodedata

ITERATIONS = 4096
_VERIFIER = re.compile(r"^SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)$")


def _prepared(password: str) -> str:
    """SASLprep (RFC 4013); like the server, the raw text where it does not apply."""
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.normalize("NFKC", mapped)
    forbidden = (
        stringprep.in_table_a1, stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3,
        stringprep.in_table_c4, stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7,
        stringprep.in_table_c8, stringprep.in_table_c9,
    )
    if not normal or any(table(char) for char in normal for table in forbidden):
        return password
    if any(stringprep.in_table_d1(char) for char in normal) and (
        any(stringprep.in_table_d2(char) for char in normal)
        or not stringprep.in_table_d1(normal[0])
        or not stringprep.in_table_d1(normal[-1])
    ):
        return password
    return normal


def verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """The verifier of a password (text) with a salt (bytes)."""
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password).encode(), salt, iterations)
    client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    encoded_salt, stored, server = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${iterations}:{encoded_salt}${stored}:{server}"


def matches(password: str, stored: str | None) -> bool:
    """Whether a stored verifier (or None) is one of this password."""
    parts = _VERIFIER.match(stored or "")
    if stored is None or not parts:
        return False
    again = verifier(password, base64.b64decode(parts.group(2)), int(parts.group(1)))
    return hmac.compare_digest(again, stored)
