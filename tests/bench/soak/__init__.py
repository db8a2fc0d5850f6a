"""The soak: a vehicle's six models under a real supervisor, with faults of every kind at random times, and a judge.

``kinds`` says what can happen and what must follow, ``model`` is the worker, ``fleet`` the configuration, ``conductor``
lets it happen, ``judge`` compares, ``report`` prints; ``pairs`` looks for two models that hang together. Invariant: the
judge goes by what was written down before a fault and by the supervisor's record; the conductor judges nothing.
"""
