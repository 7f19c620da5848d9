"""``pgroute serve``: the service over HTTP."""

from __future__ import annotations

import logging

from pgroute.config import Settings


def serve() -> None:
    """Serve /healthz, /readyz and /metrics until told to stop."""
    from pgroute.service import serve as run_service  # a web server is loaded only to serve

    logging.getLogger("pgroute").setLevel(logging.INFO)
    run_service(Settings.from_environment())
