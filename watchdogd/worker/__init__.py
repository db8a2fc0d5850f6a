"""What a worker imports: says in shared memory that it lives, and in which call it is.

    import watchdogd.worker as wd

    worker = wd.attach()               # supervised: maps the heartbeat; started by hand: same calls, nobody watches
    worker.ready()                     # the startup deadline ends here
    with worker.step():                # one frame; or begin_step() and end_step(token), from any thread or task;
                                       # step(request=17): told, or given back, if it is in flight at the worker's end
        with worker.stage("preprocess"):
            ...
        with worker.call("sync"):      # sync event alloc free copy launch other: any blocking call, of any library
            stream.synchronize()

Invariant: a worker is never worse off for being watched. Nothing here raises for the watching's sake; without a usable
heartbeat the same calls write private memory. Imports the standard library and ``watchdogd._native`` only, or, without
that or with ``WATCHDOGD_PURE_PYTHON=1``, the pure-Python ``_fallback`` (eight times slower, same behaviour).
"""

from __future__ import annotations

import os

from watchdogd.abi import ENVIRONMENT

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing alone would double the import's time
    from collections.abc import Iterator

    from watchdogd import _native

    IMPLEMENTATION, _implementation = "", _native
elif os.environ.get("WATCHDOGD_PURE_PYTHON") == "1":
    from watchdogd.worker import _fallback as _implementation

    IMPLEMENTATION = "python"
else:
    try:
        from watchdogd import _native as _implementation

        IMPLEMENTATION = "native"
    except ImportError:
        from watchdogd.worker import _fallback as _implementation

        IMPLEMENTATION = "python"


in_step = _implementation.in_step
"""Whether the worker is ready and a step of this process is in flight."""


class Worker:
    """This process as the supervisor sees it. From ``attach()``; every thread may use the same one."""

    __slots__ = ("begin_step", "call", "end_step", "error", "first_step", "ready", "stage", "step", "supervised")

    def __init__(self, supervised: bool) -> None:
        self.supervised = supervised
        """Whether the calls are stamped in a heartbeat that somebody may read."""
        # Bound here rather than methods that call: a Python frame costs more than a guard.
        self.ready = _implementation.ready
        """The worker can take work: the startup deadline ends. The first one counts."""
        self.call = _implementation.call
        """``with call(operation):`` around a blocking call. LIFO per thread; ValueError for an unknown operation."""
        self.step = _implementation.step
        """``with step():`` around one frame. ``step(request=NUMBER)``, 0 to 2**64 - 1, for work with a number of your
        own: told if it is in flight at this worker's end."""
        self.begin_step = _implementation.begin_step
        """Begins a frame; returns the token for ``end_step``. Any number may be in flight (1024 are tracked).
        ``request``: as of ``step``."""
        self.end_step = _implementation.end_step
        """Ends that frame, from any thread or task of this process. A token that is not in flight is ignored."""
        self.first_step = _implementation.first_step
        """What is done now is done for the first time, e.g. with another network: the steps in flight, and those begun
        until one is done, are judged by ``first_step``."""
        self.stage = _implementation.stage
        if _implementation.bisect(False):
            from watchdogd.worker.bisecting import Stage  # noqa: PLC0415 - nobody else is to pay for it

            self.stage = Stage
        """``with stage(name):`` names what the thread is doing; kept to 31 bytes, about 190 names per incarnation."""
        self.error = _implementation.error
        """Records a CUresult that is not success as the last CUDA error."""

    def redelivered(self) -> Iterator[int]:
        """Requests that the incarnation before this one had in flight at its end, oldest first (``redeliver = true``).

        Each is handed out once, to whichever thread or process of the worker asks for the next one, and only then.
        Begin its step (``step(request=...)``) before asking again: what was handed out is not given back once more.
        """
        return iter(_implementation.redelivered, None)

    @property
    def is_bisecting(self) -> bool:
        """Whether a stage is to end only when all that was queued in it is done. ``watchdogd.worker.cuda`` sees to it;
        who asks is taken to do so for other libraries' streams, and the verdict then says it: ask only where you do."""
        return _implementation.bisect(True)

    @property
    def implementation(self) -> str:
        """``native`` or ``python``."""
        return IMPLEMENTATION


_attached: tuple[int, Worker] | None = None  # with its pid: a forked child is a process of its own


def attach() -> Worker:
    """This process's worker, always the same one. The first call maps the heartbeat named by ``WATCHDOGD_HEARTBEAT``.

    A heartbeat that cannot be used is one line on standard error, and the worker goes on unwatched. A supervised
    Python worker writes its stacks when signal 57 asks for them, unless the program uses that signal (``_stacks``).
    """
    global _attached  # noqa: PLW0603 - one heartbeat per process
    if _attached is None or _attached[0] != os.getpid():
        _attached = os.getpid(), Worker(_implementation.attach(os.environ.get(ENVIRONMENT) or None))
        if _attached[1].supervised:
            from watchdogd.worker import _stacks  # noqa: PLC0415 - for nobody else

            _stacks.register()
    return _attached[1]
