"""Host functions: Python that the driver calls in a stream, in a thread of its own.

While one runs, it is in the heartbeat as a call ``other`` in stage ``host function``: one that waits for what waits for
it is seen, and named.

Invariant: while one runs, its thread is marked, and every CUDA call of ours there raises HostFunctionError. One
trampoline serves them all and is never freed: a callback must not free the code that it runs in.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from itertools import count

from watchdogd.worker import attach
from watchdogd.worker.cuda_driver import driver
from watchdogd.worker.cuda_place import host_function

_numbers = count(1)
_queued: dict[int, tuple[Callable[[], object], deque[BaseException]]] = {}


def queued(function: Callable[[], object], raised: deque[BaseException]) -> int:
    """The number to call the trampoline with. What the function raises goes to ``raised``."""
    number = next(_numbers)
    _queued[number] = function, raised
    return number


def forget(number: int) -> None:
    """It will not be called."""
    _queued.pop(number, None)


def _call(number: int) -> None:
    function, raised = _queued.pop(number)
    worker = attach()
    with worker.stage("host function"), worker.call("other"), host_function:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - there is nobody to raise it to here
            raised.append(error)


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_call)
TRAMPOLINE = driver.CUhostFn(ctypes.cast(_CALLBACK, ctypes.c_void_p).value)
