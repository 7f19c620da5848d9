"""Programs that say they are not Grafana and not cAdvisor, packed as the real ones are packed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

GRAFANA = '''#!/usr/bin/env python3
"""This is not Grafana. It is a program that pgfleet's tests made to drive the install path: VERSION."""
import configparser, http.server, json, pathlib, sys

arguments = sys.argv[1:]
path = next(a.split("=", 1)[1] for a in arguments if a.startswith("--config=")) if arguments[0] == "server" \\
    else arguments[arguments.index("--config") + 1]
settings = configparser.ConfigParser(interpolation=None)
settings.read(path)

def value(section, name):
    text = settings[section][name]
    return pathlib.Path(text[len("$__file{"):-1]).read_text() if text.startswith("$__file{") else text

data = pathlib.Path(value("paths", "data"))
if arguments[0] == "cli":
    assert arguments[-1] == "--password-from-stdin", arguments
    (data / "password-set-by-cli").write_text(sys.stdin.read())
    sys.exit()

assert len(value("security", "secret_key")) > 40
(data / "password-at-start").write_text(value("security", "admin_password"))

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"database": "ok", "version": "not Grafana, VERSION"}).encode())

http.server.HTTPServer((value("server", "http_addr"), int(value("server", "http_port"))), Health).serve_forever()
'''

CADVISOR = '''#!/usr/bin/env python3
"""This is not cAdvisor. It is a program that pgfleet's tests made to drive the install path: VERSION."""
import http.server, sys

options = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(b"not cAdvisor, VERSION")

http.server.HTTPServer((options["listen_ip"], int(options["port"])), Health).serve_forever()
'''


def pack_grafana(folder: Path, version: str) -> tuple[Path, str]:
    """A .tar.gz with one folder at the top, like a release of Grafana, and its SHA-256."""
    path = folder / f"not-grafana-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        program = GRAFANA.replace("VERSION", version).encode()
        entry = tarfile.TarInfo(f"not-grafana-{version}/bin/grafana")
        entry.size, entry.mode = len(program), 0o755
        archive.addfile(entry, io.BytesIO(program))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def write_cadvisor(folder: Path, version: str) -> tuple[Path, str]:
    """A bare executable, like a release of cAdvisor, and its SHA-256."""
    path = folder / f"not-cadvisor-{version}"
    path.write_text(CADVISOR.replace("VERSION", version))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()
