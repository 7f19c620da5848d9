"""``pgroute serve``: the service over HTTP (the extra ``pgroute[service]``)."""

from __future__ import annotations

import logging
import sys

from pgroute.config import Settings
from pgroute.observing.logs import write_logs


def serve() -> None:
    """Serve users, sales, the live page, /healthz, /readyz and /metrics until told to stop."""
    from pgroute.service import serve as run_service  # a web server is loaded only to serve

    settings = Settings.from_environment()
    write_logs(sys.stderr, form=settings.log_format, level=logging.INFO)
    run_service(settings)
