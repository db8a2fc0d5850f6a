"""The service of the report as a worker of watchdogd's, unmodified: plain cuda-python, and nothing catches an error.

Usage: ``python -m tests.demo.lost_context_worker none|destroyed GO``. Requests are served by the thread that made the
predictor. Once ``GO`` exists another thread takes one, to which no context is current; or another library has destroyed
the predictor's. Invariant: knows nothing of watchdogd.
"""

from __future__ import annotations

import itertools
import os
import sys
import time

from tests.demo.lost_context_plain import Predictor
from tests.demo.lost_context_requests import request
from tests.demo.lost_context_service import Handlers, destroy

PAUSE_SECONDS = 0.005


def main(case: str, go: str) -> None:
    handlers, thread = Handlers(), 0
    predictor = handlers.do(thread, Predictor)
    for number in itertools.count():
        if os.path.exists(go):
            os.unlink(go)  # the successor does well
            if case == "destroyed":
                destroy(int(predictor.context))
            else:
                thread = 2
        handlers.do(thread, predictor.run, request(number))
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
