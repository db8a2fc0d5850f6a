"""Another user of this machine, in a forked child: what he tries is tried with his rights, not with ours.

Invariant: the child ends with the ``with``, and what it holds (a lock, a socket) with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

NOBODY = 65534


@contextmanager
def stranger(act: Callable[[], object]) -> Iterator[str]:
    """Yields the name of the exception that ``act`` raised as ``nobody``, or "done"; its result is held meanwhile."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    receive, send = os.pipe()
    held, hold = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hold)
        said = "nothing"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            result = act()
            said = "done"
        except OSError as error:
            result, said = None, type(error).__name__
        finally:
            os.write(send, said.encode())
            os.close(send)
            os.read(held, 1)  # until the with ends, or we do
            del result
            os._exit(0)
    os.close(send)
    os.close(held)
    try:
        with os.fdopen(receive) as told:
            yield told.read()
    finally:
        os.close(hold)
        os.waitpid(child, 0)


def tries(act: Callable[[], object]) -> str:
    with stranger(act) as said:
        return said
