"""The one place that waits: descriptors, signals and the timer.

Invariant: a wait ends at the instant asked for, to the microsecond, whatever else happens; signal handlers only queue.
The machine does not stand still for longer than a beat and the margin without its being noticed, whenever that begins.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from watchdogd.model import MILLISECOND, SECOND
from watchdogd.observe.timer import Timer

doze: Callable[[int, int, int, int], int] | None
try:  # half as much CPU as the same in Python
    from watchdogd._native import doze
except ImportError:  # it was installed without a compiler
    doze = None

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# A real-time process that spends a second of CPU without a pause is ended (``privileges``), and throttled before that.
# Nobody shall be able to keep us that busy: with garbage on a pipe, clients on the socket, hundreds of calls at once.
WINDOW_NS = 100 * MILLISECOND
REST_NS = 10 * MILLISECOND  # at least so much of it is spent waiting
SHORTEST_REST_NS = 50_000  # a wait that was shorter was none
SHORTEST_BEAT_NS = 5 * MILLISECOND

Handler = Callable[[int], None]  # gets the time now


class Woke(NamedTuple):
    late_ns: int  # for the instant asked for; 0 if something else came first
    stalled_ns: int  # for so long at most the machine may have stood still meanwhile; 0: not for longer than the margin


class Loop:
    def __init__(
        self, on_signals: Callable[[set[int]], None], late_margin_ns: int = 20 * MILLISECOND,
        caught: Iterable[int] = CAUGHT,
    ) -> None:  # fmt: skip
        """``late_margin_ns``: so late every machine is now and then. As often the clock is looked at during a wait."""
        self._late_margin_ns = late_margin_ns
        self._beat_ns = max(late_margin_ns, SHORTEST_BEAT_NS)
        self._awake_ns = time.monotonic_ns()  # when it last was, for certain
        self._ran_ns = time.thread_time_ns()  # and how long it had run by then: its own work is no standstill
        self._handlers: dict[int, Handler] = {}
        self._epoll = select.epoll()
        self._timer = Timer()
        self._on_signals = on_signals
        self._window_ns = time.monotonic_ns()
        self._rested_ns = 0  # since then
        self._receive, self._send = socket.socketpair()
        self._receive.setblocking(False)
        self._send.setblocking(False)
        signal.set_wakeup_fd(self._send.fileno(), warn_on_full_buffer=False)
        for number in caught:
            signal.signal(number, lambda *_: None)  # the number is queued in the socket
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.listen(self._timer.descriptor, lambda _now_ns: self._timer.drain())
        self.listen(self._receive.fileno(), lambda _now_ns: self.take_signals())

    def listen(self, descriptor: int, handler: Handler) -> None:
        """Call ``handler`` whenever the descriptor is readable or hung up."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int | None) -> None:
        """Stop listening; before or after the descriptor was closed."""
        if descriptor is not None and self._handlers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError):  # closed already, which unregistered it
                self._epoll.unregister(descriptor)

    def listens_to(self, descriptor: int) -> bool:
        return descriptor in self._handlers

    def wait(self, until_ns: int) -> Woke:
        """Handle what comes until ``until_ns`` at the latest, or until the machine is found to have stood still."""
        self._timer.arm(until_ns)
        while True:
            began_ns = self._rest()
            awake_ns = self._awake_ns + time.thread_time_ns() - self._ran_ns
            if doze is not None:
                awake_ns = doze(self._epoll.fileno(), awake_ns, self._beat_ns, self._late_margin_ns)
                ready = self._epoll.poll(0)
            else:
                ready = self._epoll.poll(max(0, awake_ns + self._beat_ns - began_ns) / SECOND)
            due_ns = min(max(until_ns, awake_ns), awake_ns + self._beat_ns)
            now_ns = self._awakes()
            if now_ns - began_ns >= SHORTEST_REST_NS:
                self._rested_ns += now_ns - began_ns
            stalled_ns = stood_still(awake_ns, due_ns, now_ns, self._late_margin_ns)
            if ready or stalled_ns or now_ns >= until_ns:
                break
        for descriptor, _ in ready:
            handler = self._handlers.get(descriptor)
            if handler is not None:  # one before it may have ended it
                handler(now_ns)
        done_ns = now_ns + time.thread_time_ns() - self._ran_ns
        stalled_ns += stood_still(done_ns, done_ns, self._awakes(), self._late_margin_ns)
        return Woke(max(0, now_ns - until_ns), stalled_ns)

    def _awakes(self) -> int:
        """The time."""
        self._awake_ns, self._ran_ns = time.monotonic_ns(), time.thread_time_ns()
        return self._awake_ns

    def _rest(self) -> int:
        """The time after it."""
        now_ns = time.monotonic_ns()
        if now_ns - self._window_ns >= WINDOW_NS:
            if self._rested_ns < REST_NS:
                time.sleep((REST_NS - self._rested_ns) / SECOND)
                now_ns = time.monotonic_ns()
            self._window_ns, self._rested_ns = now_ns, 0
        return now_ns

    def take_signals(self) -> None:
        """Handle those that have come by now."""
        with contextlib.suppress(BlockingIOError):
            self._on_signals(set(self._receive.recv(4096)))


def stood_still(awake_ns: int, due_ns: int, now_ns: int, late_margin_ns: int) -> int:
    """For how long at most the machine may have, if a wake-up due at ``due_ns`` came now; 0: not later than usual.

    When it began to nobody knows: at once after it was last awake, perhaps.
    """
    return now_ns - awake_ns if now_ns - due_ns > late_margin_ns else 0
