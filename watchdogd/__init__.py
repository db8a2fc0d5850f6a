"""watchdogd: a deadline on every blocking GPU or DLA call, enforced from another process."""

__version__ = "0.1.0"
