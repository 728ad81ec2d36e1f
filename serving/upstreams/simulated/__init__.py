"""The simulated provider: it stands in for the frontier where there is no key, and says so in everything it touches."""

from serving.upstreams.simulated.server import make_app, make_server, serve
from serving.upstreams.simulated.settings import Settings

__all__ = ["Settings", "make_app", "make_server", "serve"]
