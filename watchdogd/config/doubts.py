"""What can run and is likely not what was meant: the warnings of ``watchdogd check-config``.

Invariant: few, and each one means that a hang would go unseen, the wrong worker would be killed, or something that was
written has no effect.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from watchdogd import abi, duration
from watchdogd.act.consent import is_believed
from watchdogd.config.schema import EVERY_WORKER
from watchdogd.config.scope import Problems, Scope
from watchdogd.decide.suspicion import coupled
from watchdogd.model import SECOND, Settings, WorkerSettings

_SHORTEST_KILL_GRACE_NS = SECOND  # measured: a process with 4000 hung blocks on an H200 is gone 0.72 s after SIGKILL


def note(settings: Settings, scopes: Mapping[str, Scope], problems: Problems) -> None:
    for worker in settings.workers:
        _unwatched(worker, scopes[worker.name], problems)
        _never_comes(worker, scopes[worker.name], problems)
        _told_only(worker, scopes[worker.name], problems)
        _uncoupled(worker, settings.workers, scopes[worker.name], problems)
        _idle_coupling(worker, settings.workers, scopes[worker.name], problems)
        _relative(worker, scopes[worker.name], problems)
        _shimmed(worker, scopes[worker.name], problems)
        _evidence(worker, settings.incidents.max_count, scopes[worker.name], problems)
        if worker.growth.leak and worker.growth.baseline_ns is None:
            path = (*scopes[worker.name].path, "growth", "leak")
            problems.warn(path, "has nothing to measure by: growth.baseline is never", "write baseline, or remove it")
    _hold(settings, problems)
    _lonely(settings, scopes, problems)
    if settings.escalation.hangs and not settings.escalation.enabled:
        message = "calls for an escalation, and there is none: no action, nobody to ask"
        problems.warn(("escalation", "hangs"), message, "write action, or ask")
    _consent(settings.escalation.consent_file, problems)
    if settings.hooks.veto and not settings.hooks.on_verdict:
        problems.warn(("hooks", "veto"), "nobody is asked: there is no on_verdict", "write on_verdict, or remove it")
    grace_ns = settings.supervisor.kill_grace_ns
    if grace_ns < _SHORTEST_KILL_GRACE_NS:
        message = f'"{duration.show(grace_ns)}" may pass before the driver lets go of a worker that is killed'
        problems.warn(("supervisor", "kill_grace"), message, 'write "1s" or more, or call it "unkillable" too soon')


def _evidence(worker: WorkerSettings, kept: int, scope: Scope, problems: Problems) -> None:
    if worker.evidence == "full" and not kept:
        message = "is not taken: incidents.max_count is 0"
        problems.warn((*scope.path, "evidence"), message, "raise it, or remove this")
    elif worker.evidence == "full":
        return
    for key in ("evidence_budget", "gpu_core_dump"):
        cell = scope.get(key)
        if cell is not None and cell.given and cell.value:
            problems.warn(cell.path, 'has no effect: evidence is not "full"', 'write evidence = "full", or remove it')


def _consent(file: str | None, problems: Problems) -> None:
    directory = os.path.dirname(file or "")
    if file is not None and os.path.isdir(directory) and not is_believed(os.stat(directory)):
        message = f'will not be believed: others than root and the supervisor can write "{directory}"'
        problems.warn(("escalation", "consent_file"), message, "name a file in a directory that is root's alone")


def _unwatched(worker: WorkerSettings, scope: Scope, problems: Problems) -> None:
    limits = worker.deadlines
    path = (*scope.path, "deadlines")
    call = any(limits.calls_ns)
    if not (limits.first_step_ns or limits.step_ns or call or limits.progress_ns):
        what = "nothing but its start is watched" if limits.startup_ns else "none of it is watched"
        problems.warn(
            path,
            f"has no deadline for a step or a call: {what}",
            f"set {'sync' if worker.instrument == 'driver' else 'step and sync'} at least",
        )
    elif limits.step_ns and worker.accelerator and not call:
        problems.warn(path, "has step without sync: a hung call is found only when its whole step is late", "set sync")


_NEED_CODE = (
    "deadlines.step", "deadlines.first_step", "restart.bisect_after", "redeliver", "outputs.bad_in_a_row",
)  # fmt: skip
_NEED_SHIM = ("check_context", "sync_mode", "nvtx")


def _shimmed(worker: WorkerSettings, scope: Scope, problems: Problems) -> None:
    """Keys of the other way to stamp. What it has from [defaults] is meant for workers of the other kind."""
    has_shim = worker.instrument == "driver"
    for name in _NEED_CODE if has_shim else _NEED_SHIM:
        cell = scope.get(name)
        if cell is None or not cell.given or cell.path[0] == EVERY_WORKER or not cell.value:
            continue
        if has_shim:
            message = 'has no effect unless its code says so: with instrument = "driver" only its CUDA calls are seen'
            problems.warn(cell.path, message, "remove it, or use the worker API beside the shim")
        else:
            message = 'has no effect without a shim before the driver: instrument is "worker"'
            problems.warn(cell.path, message, 'write instrument = "driver", or remove it')


def _never_comes(worker: WorkerSettings, scope: Scope, problems: Problems) -> None:
    startup_ns, after_ns = worker.deadlines.startup_ns, worker.ready_after_ns
    if startup_ns is not None and after_ns is not None and after_ns >= startup_ns:
        message = f'never comes: deadlines.startup "{duration.show(startup_ns)}" ends it before'
        problems.warn((*scope.path, "ready_after"), message, "write less, or a longer deadlines.startup")
    cell = scope.get("restart.before_exit")
    if cell is not None and cell.value and worker.on_verdict != "exit" and cell.path[0] != EVERY_WORKER:
        message = 'has no effect: on_verdict is not "exit"'
        problems.warn(cell.path, message, 'write on_verdict = "exit", or remove it')


def _told_only(worker: WorkerSettings, scope: Scope, problems: Problems) -> None:
    if worker.progress is not None and not worker.progress.is_probe and worker.deadlines.progress_ns is None:
        problems.warn((*scope.path, "progress"), "is only shown: deadlines.progress is never", "set it")


def _uncoupled(worker: WorkerSettings, workers: tuple[WorkerSettings, ...], scope: Scope, problems: Problems) -> None:
    if not (worker.accelerator or "").startswith("dla"):
        return
    others = (w for w in workers if (w.accelerator or "").startswith("gpu") and not coupled(w, worker))
    other = next(others, None)
    if other is not None:
        message = f'{worker.accelerator} may freeze {other.accelerator}, and then "{other.name}" may be killed for it'
        problems.warn((*scope.path, "coupled_with"), message, f'write coupled_with = ["{other.accelerator}"]')


def _idle_coupling(
    worker: WorkerSettings, workers: tuple[WorkerSettings, ...], scope: Scope, problems: Problems
) -> None:
    for name in worker.coupled_with:
        if not any(name in (other.name, other.accelerator) for other in workers):
            problems.warn((*scope.path, "coupled_with"), f'"{name}" has no worker', "give it one, or remove it")


def _relative(worker: WorkerSettings, scope: Scope, problems: Problems) -> None:
    program = worker.command[0]
    if "/" in program and not os.path.isabs(program) and worker.working_directory is None:
        message = f'program "{program}" is looked for where the supervisor is started, which systemd does in /'
        problems.warn((*scope.path, "command"), message, "write working_directory, or its whole path")


def _lonely(settings: Settings, scopes: Mapping[str, Scope], problems: Problems) -> None:
    groups = [worker.redundancy for worker in settings.workers]
    for worker in settings.workers:
        if worker.redundancy is not None and groups.count(worker.redundancy) == 1:
            path = (*scopes[worker.name].path, "redundancy")
            problems.warn(path, f'"{worker.redundancy}" has no other worker', "give it to another one, or remove it")
        cell = scopes[worker.name].get("restart_with")
        if cell is not None and isinstance(cell.value, str) and not worker.restart_with:
            problems.warn(cell.path, f'"{cell.value}" has no other worker', "give it to another one, or remove it")


def _hold(settings: Settings, problems: Problems) -> None:
    """Whether the kill of a quick worker can wait until the verdict on a slow one that froze it."""
    hold_ns, sync = settings.supervisor.hold_max_ns, abi.OPERATION["sync"]
    limits = [(w.deadlines.calls_ns[sync], w) for w in settings.workers]
    set_limits = [(limit, w) for limit, w in limits if limit is not None]
    late = [
        (slow_ns - quick_ns, quick, slow)
        for quick_ns, quick in set_limits
        for slow_ns, slow in set_limits
        if slow_ns - quick_ns > hold_ns > 0 and coupled(quick, slow)  # 0: no hold is wanted
    ]
    if late:
        needed_ns, quick, slow = max(late, key=lambda each: each[0])
        held = f'"{duration.show(hold_ns)}" after its verdict "{quick.name}" is killed'
        message = f'{held}, although "{slow.name}", whose sync is not overdue then, may have frozen it'
        remedy = f'write "{duration.show(needed_ns)}" or more, or bring their sync deadlines closer together'
        problems.warn(("supervisor", "hold_max"), message, remedy)
