"""The HTTP service: users and sales over the router, its topology live, and what is counted.

    pgroute serve            # configured by PGROUTE_* like everything else

``api`` holds the requests for users and sales, ``operations`` those for machines that watch,
``live`` and ``page/`` what a person sees at ``/``; ``problems`` says which error becomes which
answer. Needs the extra ``pgroute[service]``.

There is no authentication: whoever reaches the address may read and add users. It therefore
listens on loopback unless PGROUTE_LISTEN_ADDRESS says otherwise.
"""

from pgroute.service.app import make_app
from pgroute.service.run import serve

__all__ = ["make_app", "serve"]
