"""What one value alone cannot tell: keys that contradict each other, and names that this machine does not have.

Invariant: a check reads and notes; it changes nothing, and skips whatever was given wrongly.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from collections.abc import Iterable, Mapping

from watchdogd import duration
from watchdogd.config import cpus, progress
from watchdogd.config.schema import CALLS, NO_DEFAULT
from watchdogd.config.scope import Cell, Problems, Scope, suggestion
from watchdogd.config.values import ACCELERATOR, WORKER_NAME
from watchdogd.decide import order
from watchdogd.publish import journald


def check_directories(supervisor: Scope, problems: Problems) -> None:
    runtime, state = supervisor.get("runtime_dir"), supervisor.get("state_dir")
    if runtime is None or state is None:
        return
    paths = [os.path.normpath(cell.value) for cell in (runtime, state)]
    if os.path.commonpath(paths) in paths:
        blamed = state if state.given else runtime
        message = f'runtime_dir "{runtime.value}" and state_dir "{state.value}" are the same or one is in the other'
        problems.note(blamed.path, message, "give each a directory of its own")


def check_journal(supervisor: Scope, workers: Iterable[Scope], problems: Problems) -> None:
    """Who asks for the journal by name; ``auto`` makes do without."""
    if journald.can_send():
        return
    for cell in (supervisor.get("log_format"), *(scope.get("output") for scope in workers)):
        if cell is not None and cell.value == "journal":
            message = 'is "journal", and this Python has no systemd-python'
            problems.note(cell.path, message, "install it (pip install 'watchdogd[systemd]'), or write another value")


def check_hooks(hooks: Scope, path: str, problems: Problems) -> None:
    check_program(hooks.get("on_verdict"), path, problems)
    veto, longest, deadline = hooks.get("veto"), hooks.get("veto_max"), hooks.get("on_verdict_deadline")
    if veto and veto.value and longest and deadline and longest.value < deadline.value:
        short, least = duration.show(longest.value), duration.show(deadline.value)
        blamed = longest if longest.given else deadline
        message = f'veto_max "{short}" is over before on_verdict_deadline "{least}"'
        problems.note(blamed.path, message, f'raise veto_max to "{least}" or more')


def check_incidents(incidents: Scope, path: str, problems: Problems) -> None:
    check_program(incidents.get("export_hook"), path, problems)


def check_escalation(escalation: Scope, path: str, problems: Problems) -> None:
    action, ask, file = (escalation.get(name) for name in ("action", "ask", "consent_file"))
    check_program(ask, path, problems)
    if action and action.value == "reboot":
        check_program(escalation.get("reboot_command"), path, problems)
    if action and action.value != "none" and ask and file and not ask.value and file.value is None:
        message = f'"{action.value}" without anybody\'s consent may come while the vehicle drives'
        problems.note(action.path, message, "write ask, or consent_file, or both")


def check_program(command: Cell | None, path: str, problems: Problems) -> None:
    """Of a command that we run ourselves, where we were started."""
    if command is None or not command.value:
        return
    program = command.value[0]
    if not ("/" not in program or os.path.isabs(program)):
        problems.note(command.path, f'program "{program}" is a relative path', "write its whole path")
    elif shutil.which(program, path=path) is None:
        place = "an executable file" if "/" in program else f"on PATH ({path})"
        problems.note(command.path, f'program "{program}" is not {place}', "install it, or write its whole path")


def check_names(workers: Mapping[str, Scope], problems: Problems) -> None:
    seen: dict[str, str] = {}
    for name, scope in workers.items():
        if WORKER_NAME.fullmatch(name) is None:
            remedy = "use 1 to 48 of A-Z a-z 0-9 _ -"
            problems.note(scope.path, "is not a worker's name", remedy)
        if ACCELERATOR.fullmatch(name):  # what would coupled_with mean by it?
            problems.note(scope.path, "is also the name of an accelerator", "give the worker another name")
        other = seen.setdefault(name.lower(), name)
        if other != name:
            problems.note(scope.path, f'differs from worker "{other}" only in case', "rename one of the two")


def check_worker(scope: Scope, workers: Mapping[str, Scope], path: str, problems: Problems) -> None:
    _check_deadlines(scope, problems)
    _check_restart(scope, problems)
    _check_coupling(scope, workers, problems)
    for key in ("after", "restart_with"):
        _check_names_of_others(scope.get(key), scope, workers, problems)
        _check_waits(scope.get(key), scope, workers, problems)
    affinity = scope.get("cpu_affinity")
    if affinity and affinity.value:
        check_affinity(affinity, cpus.present(), cpus.usable(), problems)
    _check_account(scope, problems)
    check_program(scope.get("probe"), path, problems)
    progress.check(scope, problems)
    cell = scope.get("progress")
    if cell is not None and cell.value is not None and cell.value.kind == "command":
        check_program(cell._replace(value=cell.value.target), path, problems)
    _check_command(scope, path, problems)


def _check_deadlines(scope: Scope, problems: Problems) -> None:
    pairs = [("first_step", "step"), *((step, call) for step in ("first_step", "step") for call in CALLS)]
    for outer_name, inner_name in pairs:
        outer, inner = scope.get(f"deadlines.{outer_name}"), scope.get(f"deadlines.{inner_name}")
        if outer and inner and outer.value and inner.value and outer.value < inner.value:
            outer_text, inner_text = duration.show(outer.value), duration.show(inner.value)
            problems.note(
                outer.path,
                f'{outer_name} "{outer_text}" is shorter than {inner_name} "{inner_text}", which could never pass',
                f'raise {outer_name} to "{inner_text}" or more, or lower {inner_name}',
            )


def _check_restart(scope: Scope, problems: Problems) -> None:
    backoff, longest = scope.get("restart.backoff"), scope.get("restart.backoff_max")
    if backoff and longest and longest.value < backoff.value:
        short, least = duration.show(longest.value), duration.show(backoff.value)
        blamed = longest if longest.given else backoff
        message = f'backoff_max "{short}" is shorter than backoff "{least}"'
        problems.note(blamed.path, message, f'raise backoff_max to "{least}" or more')


def _accelerators(workers: Iterable[Scope]) -> set[str]:
    cells = [scope.get("accelerator") for scope in workers]
    return {cell.value for cell in cells if cell and cell.value is not None}


def _check_coupling(scope: Scope, workers: Mapping[str, Scope], problems: Problems) -> None:
    coupled = scope.get("coupled_with")
    if coupled is None or not coupled.value:
        return
    known = {*workers, *_accelerators(workers.values())}
    for name in coupled.value:
        if name == scope.path[-1]:
            problems.note(coupled.path, f'"{name}" is this worker itself', "remove it")
        # A GPU or DLA that only others use can freeze this worker all the same.
        elif name not in known and not ACCELERATOR.fullmatch(name):
            problems.note(
                coupled.path,
                f'"{name}" is neither a worker nor an accelerator',
                suggestion(name, known - {scope.path[-1]}),
            )


def _check_names_of_others(named: Cell | None, scope: Scope, workers: Mapping[str, Scope], problems: Problems) -> None:
    if named is None or isinstance(named.value, str):  # the latter: a group
        return
    for name in named.value:
        if name == scope.path[-1]:
            problems.note(named.path, f'"{name}" is this worker itself', "remove it")
        elif name not in workers:
            problems.note(named.path, f'"{name}" is not a worker', suggestion(name, {*workers} - {scope.path[-1]}))


def _check_waits(named: Cell | None, scope: Scope, workers: Mapping[str, Scope], problems: Problems) -> None:
    """Whoever is waited for is ready, or late, one day."""
    names = () if named is None else named.value
    for name in (scope.path[-1],) if isinstance(names, str) else names:  # the former: of a group
        startup = workers[name].get("deadlines.startup") if name in workers else None
        if named is not None and startup is not None and startup.value is None:
            message = f'"{name}" may never be ready, nor late: its deadlines.startup is "never"'
            problems.note(named.path, message, f'give "{name}" a startup deadline, or remove this')


def check_order(workers: Mapping[str, Scope], problems: Problems) -> None:
    cells = {name: scope.get("after") for name, scope in workers.items()}
    round_ = order.cycle({name: cell.value for name, cell in cells.items() if cell is not None})
    cell = None if round_ is None else cells[round_[0]]
    if round_ is not None and cell is not None and len(round_) > 2:  # itself: said already
        problems.note(cell.path, f"they wait for each other: {' after '.join(round_)}", "remove one of them")


def check_affinity(affinity: Cell, present: frozenset[int], usable: frozenset[int], problems: Problems) -> None:
    named = frozenset(affinity.value)
    if named - present:
        message = f"names CPU {cpus.show(named - present)}, which this machine does not have"
        problems.note(affinity.path, message, f"name some of {cpus.show(present)}, or remove it")
    elif not named & usable:  # the kernel would refuse it, and the worker could never start
        message = f"CPU {cpus.show(named)} is offline, or outside the cpuset of this control group"
        problems.note(affinity.path, message, f"name some of {cpus.show(usable)}, or remove it")
    elif named - usable:  # a power mode takes CPUs away and gives them back: no reason not to start
        message = f"CPU {cpus.show(named - usable)} is offline, or outside the cpuset of this control group"
        problems.warn(affinity.path, message, f"until that changes it runs on {cpus.show(named & usable)} alone")


def _check_account(scope: Scope, problems: Problems) -> None:
    own = os.geteuid()
    user, group = scope.get("user"), scope.get("group")
    for cell, kind in ((user, "user"), (group, "group")):
        if cell is None or cell.value is None:
            continue
        try:
            number = pwd.getpwnam(cell.value).pw_uid if kind == "user" else grp.getgrnam(cell.value).gr_gid
        except (KeyError, UnicodeEncodeError):  # the latter: the locale cannot even ask for it
            problems.note(cell.path, f'there is no {kind} "{cell.value}"', "create it, or name another")
            continue
        if own != 0 and number != (own if kind == "user" else os.getegid()):
            message = f'is "{cell.value}", which a supervisor that is not root cannot become'
            problems.note(cell.path, message, "run the supervisor as root, or remove it")


def _whole(start: str | None) -> str:
    """Of a worker that starts where we did, as far as that can be told."""
    try:
        return start if start and start != "." else f"{os.getcwd()} (no working_directory: where this was started)"
    except OSError:
        return "a directory that is gone (no working_directory: where this was started)"


def _check_command(scope: Scope, path: str, problems: Problems) -> None:
    directory = scope.get("working_directory")
    start = directory.value or "." if directory else None  # None: unknown
    if directory and directory.value and not os.path.isdir(directory.value):
        problems.note(directory.path, f'"{start}" is not a directory', "create it, or name another")
        start = None
    command, environment = scope.get("command"), scope.get("environment")
    if command is None or environment is None:
        return
    if command.value is NO_DEFAULT:
        problems.note(command.path, "is missing", 'write one such as ["python3", "-m", "vehicle.detector"]')
        return
    program, path = command.value[0], dict(environment.value).get("PATH", path)
    if "/" not in program:
        found, place = shutil.which(program, path=path) is not None, f"on PATH ({path})"
    elif start is None and not os.path.isabs(program):
        return
    else:
        file = os.path.join(start or ".", program)  # not ``which``: it reads "a/b" from our own directory
        found, place = os.path.isfile(file) and os.access(file, os.X_OK), f"an executable file in {_whole(start)}"
        place = "an executable file" if os.path.isabs(program) else place
    if not found:
        problems.note(command.path, f'program "{program}" is not {place}', "install it, or write its whole path")
