"""For every test: hypothesis does not time examples, since the machine may be busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("baseload", deadline=None)
settings.load_profile("baseload")
