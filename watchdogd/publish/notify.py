"""systemd's notification protocol, by systemd-python.

Invariant: where systemd expects to be told (``NOTIFY_SOCKET``) and we cannot tell, the start ends with the remedy; a
service that never says READY would be killed by its start time-out, again and again.
"""

from __future__ import annotations

import os
import time

from watchdogd.model import SECOND


class CannotNotify(Exception):
    """NOTIFY_SOCKET is set and systemd-python is not installed."""


class Notifier:
    def __init__(self, *, speaks: bool = True) -> None:
        self._notify = None
        self._status = ""
        self._fed_ns = 0
        self.feed_every_ns: int | None = None
        if not speaks or not os.environ.get("NOTIFY_SOCKET"):
            return
        try:
            from systemd import daemon  # noqa: PLC0415 - only a systemd service needs it
        except ImportError:
            raise CannotNotify(
                "NOTIFY_SOCKET is set but the Python package systemd-python is missing; "
                "install it (pip install 'watchdogd[systemd]'), or use Type=exec in the unit"
            ) from None
        self._notify = daemon.notify
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        if watchdog.isdigit() and os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self.feed_every_ns = min(int(watchdog) * 1000 // 4, SECOND)

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        """The next ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def feed(self, now_ns: int) -> None:
        """Called at the end of complete ticks only: a supervisor that does not examine its workers is not alive."""
        if self.feed_every_ns is not None and now_ns - self._fed_ns >= self.feed_every_ns:
            self._fed_ns = now_ns
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._notify is not None:
            self._notify(text)
