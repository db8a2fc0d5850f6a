"""One life of a supervisor: on its directories, and from its start to an orderly end or an error.

Invariant: what keeps it from starting is raised with its remedy before it says that it is ready.
"""

from __future__ import annotations

import os

from watchdogd import abi
from watchdogd.act.runtime import Runtime
from watchdogd.model import Settings
from watchdogd.publish.notify import Notifier
from watchdogd.supervisor.reload import DIRECTORIES, kept_directories
from watchdogd.supervisor.tick import Supervisor


def main(settings: Settings) -> int:
    """Run until told to stop. Raises CannotStart, CannotNotify, OSError before READY."""
    os.environ.pop(abi.ENVIRONMENT, None)  # a worker's, if it started us: our children are not its descendants
    is_reloaded = DIRECTORIES in os.environ
    kept, is_other = kept_directories(settings.supervisor)
    settings = settings._replace(supervisor=kept)
    notifier = Notifier()
    runtime = Runtime(settings.supervisor, is_known=is_reloaded)
    supervisor = Supervisor(settings, runtime, notifier)
    if is_other:
        supervisor.tell_problem("runtime_dir and state_dir change by a restart only; the old ones are still used")
    try:
        supervisor.run()
    except BaseException:
        supervisor.abandon()
        raise
    supervisor.close()
    return supervisor.exit_status
