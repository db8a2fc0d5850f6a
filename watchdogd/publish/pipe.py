"""Lines to a child's standard input, whole and in order, without ever waiting for it.

Invariant: what one child had half of when it ended, the next one gets whole.
"""

from __future__ import annotations

import errno
import os
from collections import deque


class LinePipe:
    def __init__(self) -> None:
        self._queue: deque[bytes] = deque()
        self._rest = b""  # of the first line, where the pipe took a part of it
        self._descriptor: int | None = None

    def __len__(self) -> int:
        """Lines that wait."""
        return len(self._queue)

    @property
    def is_attached(self) -> bool:
        return self._descriptor is not None

    def attach(self, descriptor: int | None) -> None:
        """Of a (new) child, non-blocking; None: there is none."""
        self._descriptor = descriptor
        self._rest = b""
        self.flush()

    def put(self, line: bytes) -> None:
        """``line``: with its newline."""
        self._queue.append(line)
        self.flush()

    def clear(self) -> None:
        self._queue.clear()

    def flush(self) -> None:
        """Write as much as the pipe takes now."""
        while self._queue and self._descriptor is not None:
            line = self._rest or self._queue[0]
            try:
                written = os.write(self._descriptor, line)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                self.attach(None)  # it died; its end is told as well
                return
            self._rest = line[written:]
            if not self._rest:
                self._queue.popleft()
