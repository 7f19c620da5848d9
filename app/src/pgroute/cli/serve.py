"""``pgroute serve``: the service over HTTP (the extra ``pgroute[service]``)."""

from __future__ import annotations

import logging
import sys

from pgroute.config import Settings
from pgroute.errors import ConfigurationError
from pgroute.observing.logs import write_logs

_EXTRA = ("fastapi", "starlette", "uvicorn")


def serve() -> None:
    """Serve users, sales, the live page, /healthz, /readyz and /metrics until told to stop."""
    try:
        from pgroute.service import serve as run_service  # a web server is loaded only to serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(
            f'{error.name} is not installed: pip install "pgroute[service]"'
        ) from None

    settings = Settings.from_environment()
    write_logs(sys.stderr, form=settings.log_format, level=logging.INFO)
    run_service(settings)
