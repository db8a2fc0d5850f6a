"""``python -m watchdogd.config --markdown``: the README's table of keys, from the one that drives the parsing."""

from __future__ import annotations

import sys

from watchdogd.config import schema

if sys.argv[1:] != ["--markdown"]:
    sys.exit("usage: python -m watchdogd.config --markdown")
print(schema.markdown(), end="")
