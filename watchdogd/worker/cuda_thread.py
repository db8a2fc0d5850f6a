"""One thread for all CUDA work of a worker, with a context pinned to it: an executor for futures and asyncio.

    from watchdogd.worker.cuda_thread import CudaThread

    with CudaThread(device=0) as gpu:
        model = gpu.submit(Model, gpu.context).result(timeout=60)
        output = gpu.submit(model.infer, frame).result(timeout=1)
        output = await loop.run_in_executor(gpu, model.infer, frame)       # from asyncio

Invariant: tasks run one after the other in the order of ``submit``, each with the context current; nothing here waits
without a deadline. A task that hangs is seen in the heartbeat: as a call of its thread, with the call it is stuck in
nested in it. The thread is a daemon: one that hangs keeps no process from its end.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # before Python 3.11 not the built-in one
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from watchdogd.worker import attach
from watchdogd.worker.cuda import Context, ContextLost, CudaError
from watchdogd.worker.cuda_driver import BacklogFullError
from watchdogd.worker.cuda_place import Owner

T = TypeVar("T")

START_SECONDS = 120.0  # as the startup deadline
SHUTDOWN_SECONDS = 5.0
_KILLED_FIRST = (
    "a hang is the supervisor's to end: let the worker's deadlines, e.g. `deadlines.sync`, be shorter than the time-out"
    " of `result`"
)


class _Task(NamedTuple):
    future: Future[Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def name(self) -> str:
        return str(getattr(self.function, "__qualname__", self.function))


class CudaThread(Executor):
    """``options`` are those of Context but ``owner``.

    ``backlog``: tasks that may wait; ``submit`` raises BacklogFullError beyond.

    ``stamp``: the operation as which a task is in the heartbeat, None for not at all. Raises what Context does, and
    TimeoutError if there is no context after ``start_timeout`` seconds.
    """

    def __init__(
        self,
        device: int = 0,
        *,
        name: str = "cuda",
        backlog: int = 1024,
        stamp: str | None = "other",
        start_timeout: float = START_SECONDS,
        **options: Any,
    ) -> None:
        if "owner" in options:
            raise ValueError("owner: the context of a CudaThread is its thread's in any case; leave it out")
        self.context: Context
        self._make = partial(Context, device, owner="thread", **options)
        self._guard = None if stamp is None else attach().call(stamp)
        self._tasks: queue.Queue[_Task | None] = queue.Queue()
        self._most = backlog
        self._lock = threading.Lock()  # never held during a task or a call of the driver
        self._closed = False
        self._running: tuple[str, float] | None = None
        self._ended: Future[None] = Future()
        made: Future[None] = Future()
        self.thread = threading.Thread(target=self._run, args=(made,), name=name, daemon=True)
        self.thread.start()
        try:
            made.result(start_timeout)
        except FutureTimeoutError:
            self.shutdown(wait=False)
            raise TimeoutError(f"{self} has no context after {start_timeout:g} s") from None

    def __str__(self) -> str:
        return f"CUDA thread {self.thread.name!r} (tid {self.thread.native_id})"

    @property
    def owner(self) -> Owner | None:
        """The thread, as ContextLost names it."""
        return self.context.owner

    @property
    def running(self) -> tuple[str, float] | None:
        """The task that runs now, and for how many seconds it has."""
        running = self._running
        return None if running is None else (running[0], time.monotonic() - running[1])

    @property
    def waiting(self) -> int:
        """Tasks that wait."""
        return self._tasks.qsize()

    def submit(self, function: Callable[..., T], /, *arguments: Any, **keywords: Any) -> Future[T]:
        """Queues a task. Its exception is that of the future.

        ContextLost is, too, if the task has left another context current, which is put right before the next one; and
        ValueError if it has closed this one. A task that waits for one that was queued after it waits for ever.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed or not self.thread.is_alive():  # it is not in a forked child
                raise RuntimeError(f"{self} has been shut down")
            if self._tasks.qsize() >= self._most:
                raise BacklogFullError(f"{self}: {self._most} tasks wait{self._stuck()}")
            self._tasks.put(_Task(future, function, arguments, keywords))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float = SHUTDOWN_SECONDS) -> None:
        """No more tasks; after those that wait, or with ``cancel_futures`` without them, the context is closed.

        Raises TimeoutError, naming the task, if that has not come about ``timeout`` seconds later; what still waits is
        cancelled then.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._tasks.put(None)
        if cancel_futures:
            self._cancel()
        if not wait or threading.get_ident() == self.thread.ident:
            return
        if not self.thread.is_alive() and not self._ended.done():  # in a forked child
            self._cancel()
            return
        try:
            self._ended.result(timeout)
        except FutureTimeoutError:
            if self._ended.done():  # of the close itself
                raise
        else:
            return
        self._cancel()
        remedy = "" if self.running is None else f"; {_KILLED_FIRST}"
        # Out here, so that an error of the caller's on its way is its context.
        raise TimeoutError(f"{self} has not ended within {timeout:g} s{self._stuck()}{remedy}")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.shutdown()
        except (CudaError, ContextLost, TimeoutError) as error:
            if kind is None:
                raise
            print(f"watchdogd: {error}", file=sys.stderr)  # the error on its way says more than what follows from it

    def _stuck(self) -> str:
        running = self.running
        return "" if running is None else f": {running[0]} has run for {running[1]:.3g} s"

    def _cancel(self) -> None:
        kept: list[_Task | None] = []
        while True:
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                break
            if task is None or not task.future.cancel():
                kept.append(task)
            else:
                task.future.set_running_or_notify_cancel()  # or concurrent.futures.wait would not hear of it
        for task in kept:
            self._tasks.put(task)

    # --- the thread ---

    def renew(self) -> Context:
        """For a task: a new context in the place of this one, which is closed with all that it had."""
        if threading.get_ident() != self.thread.ident:
            raise RuntimeError(f"only a task on {self} may renew its context")
        with suppress(CudaError):  # it was lost: that is why it is renewed
            self.context.close()
        self.context = self._make()
        return self.context

    def _run(self, made: Future[None]) -> None:
        try:
            self.context = self._make()
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            made.set_exception(error)
            return
        made.set_result(None)
        while (task := self._tasks.get()) is not None:  # its only wait without a deadline: for work
            if task.future.set_running_or_notify_cancel():
                self._do(task)
            del task  # or it would live until the next one
        try:
            self.context.close()
        except BaseException as error:  # noqa: BLE001 - as above
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)

    def _do(self, task: _Task) -> None:
        self._running = task.name, time.monotonic()
        try:
            if self._guard is None:
                result = task.function(*task.arguments, **task.keywords)
            else:
                with self._guard:
                    result = task.function(*task.arguments, **task.keywords)
            problem = self._left(task)
        except BaseException as error:  # noqa: BLE001 - as above
            problem = error
            self._left(task)
        finally:
            self._running = None
        if problem is None:
            task.future.set_result(result)
        else:
            task.future.set_exception(problem)

    def _left(self, task: _Task) -> BaseException | None:
        """Puts right what the task has left current; says so."""
        try:
            self.context.check()
        except ContextLost as lost:
            with suppress(CudaError):  # it was destroyed: the next task will hear of it
                self.context.rebind()
            return ContextLost(f"after {task.name}", lost.expected, lost.found, lost.owner, lost.caller)
        except (CudaError, ValueError) as error:  # ValueError: it was closed, and can be renewed
            return error
        return None
