"""How long an example takes, to make or to try, is no property here: it is the machine's, which other tests share.

Invariant: what a test says of itself (``@settings``) holds before this.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")
