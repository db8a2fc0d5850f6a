"""Workers that ended by themselves, or whose results say that they cannot go on: crash, CUDA error, output, leak.

Invariant: pure; a SIGKILL that we did not send is laid to the kernel's OOM killer only by the counter of its cgroup.
"""

from __future__ import annotations

import re

from watchdogd.cuda_results import CONTEXT_ERRORS, STICKY_ERRORS
from watchdogd.decide.causes.case import HANGS, Case
from watchdogd.decide.causes.device import fault, named
from watchdogd.decide.causes.words import Cause, found, in_stage, listed, span
from watchdogd.incident import Diagnosis
from watchdogd.model import SECOND, Verdict

ASSERT = 710  # its context is lost, but a device-side assert is a fault of code as the sticky ones are
_LOST = {number: name for number, name in CONTEXT_ERRORS.items() if number != ASSERT}
_FAULTS = {**STICKY_ERRORS, ASSERT: CONTEXT_ERRORS[ASSERT]}
_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
_ENDED = {Verdict.CRASHED.value, Verdict.EXITED.value}
ENDS_NS = 5 * SECOND  # what a program takes to end by an error that nothing catches
_OOM = "memory.events.oom_kill"


def sticky_error(case: Case) -> Diagnosis | None:
    """Of a worker that ended, that hangs, or that only recorded it."""
    kind, own = case.verdict.verdict, case.own
    told = re.search(r"\((\d{3})\)", case.verdict.detail) if kind == Verdict.STICKY_ERROR.value else None
    code = int(told[1]) if told else own.last_error if own is not None else None
    if code not in _FAULTS or kind not in _ENDED | HANGS | {Verdict.STICKY_ERROR.value}:
        return None
    line = next((kernel.location for kernel in case.kernels if kernel.location), None)
    source = case.source(case.verdict.tid) or (None if case.hung is None else case.source(case.hung.lane.tid))
    at = f" in {named(case.kernels[0])}" if line else f", Python code at {source}" if source else ""
    then = {Verdict.STICKY_ERROR.value: "it can only be replaced", **dict.fromkeys(_ENDED, f"then it {_exit(case)}")}
    after = then.get(kind, f"then {case.where} did not return, entered {case.before(case.since_ns)}")
    since = (
        f", {case.before(case.verdict.entered_ns)}" if kind not in HANGS and case.verdict.entered_ns is not None else ""
    )
    sentence = (
        f"A CUDA error broke the context of worker {case.incident.worker}{since}: {_FAULTS[code]} "
        f"({code}){at}; {after}."
    )
    said = [f"the last CUDA error of the worker is {_FAULTS[code]} ({code}), after which no CUDA call succeeds"]
    of_driver = fault(case)
    said += [f for f in of_driver.facts if f.startswith("the kernel said")] if of_driver is not None else []
    said += [f"kernel {named(kernel)} was on the GPU" for kernel in case.kernels]
    steps = ["run it under compute-sanitizer with the same input: it names the kernel and the line"]
    if code == 810:
        steps = ["another client of the same MPS server faulted: look at the incidents of its neighbours"]
    elif code == 911:
        steps = ["a device outside of CUDA failed, as a DLA does: look at the kernel log, and at the DLA's own worker"]
    if not line:
        steps.append("no source line is known: compile with -lineinfo, and set CUDA_ENABLE_COREDUMP_ON_EXCEPTION=1")
    return found(Cause.STICKY_ERROR, sentence, said, *steps)


def lost_context(case: Case) -> Diagnosis | None:
    """It ended, and its last CUDA error is that of a context that was not there, or a call had none just before."""
    own = case.own
    if own is None or case.verdict.verdict not in _ENDED:
        return None
    code = own.last_error
    had_none = own.misuse_found == 0 and own.misuse_ns is not None and 0 <= case.at_ns - own.misuse_ns <= ENDS_NS
    if code in _LOST:
        met = f"that was not its own or was gone: its last CUDA error was {_LOST[code]} ({code})"
        said = [f"the last CUDA error of the worker is {_LOST[code]} ({code})", *_misuses(case)]
    elif had_none and own.misuse_ns is not None:
        whose = f" ({own.misuse.removeprefix('the last one ')})" if own.misuse else ""
        met, said = f"that was not there: {case.before(own.misuse_ns)} a call found none{whose}", _misuses(case)
    else:
        return None
    sentence = f"Worker {case.incident.worker} met a CUDA context {met}, then it {_exit(case)}."
    return found(
        Cause.LOST_CONTEXT,
        sentence,
        said,
        'hand all work with a context to one thread (CudaThread.submit); `owner="thread"` names who does not',
        *([] if own.misuses else ["`check_context = true` tells which call of which thread met which context"]),
    )


def _misuses(case: Case) -> list[str]:
    own = case.own
    if own is None or own.misuses <= 0:
        return []
    last = f"; {own.misuse}" if own.misuse else ""
    return [f"{own.misuses} call{'s' * (own.misuses > 1)} found another context current than before{last}"]


def ended(case: Case) -> Diagnosis | None:
    if case.verdict.verdict not in _ENDED:
        return None
    worker, detail = case.incident.worker, case.verdict.detail
    doing = _last_doing(case)
    if "cannot start" in detail:
        return found(
            Cause.CRASH,
            f"Worker {worker} could not be started: {detail}.",
            [detail],
            "correct its command, user or rights; `watchdogd doctor` looks for what is missing",
        )
    signal = _signal(case)
    said = [f"it {_exit(case)}", *doing[1:], *_misuses(case)]
    if signal == 9:
        return _killed(case, said, doing[0])
    if signal is None and case.verdict.verdict == Verdict.EXITED.value:
        return found(
            Cause.EXITED,
            f"Worker {worker} ended by itself with status 0, which nobody asked for{doing[0]}.",
            said,
            "look at the end of its output; a worker that may end is to be `watchdogd stop`ped",
        )
    sentence = f"Worker {worker} crashed: it {_exit(case)}{doing[0]}."
    step = "get a host core dump (ulimit -c, coredumpctl) and look at the thread that crashed"
    if signal is None:
        step = "look at the end of its output for the exception or message"
    return found(Cause.CRASH, sentence, said, step)


def _killed(case: Case, said: list[str], doing: str) -> Diagnosis:
    worker = case.incident.worker
    counts = [
        int(value)
        for process in case.incident.processes
        for name, value in process.cgroup
        if name == _OOM and re.fullmatch(r"\d{1,15}", value, re.ASCII)
    ]
    if counts and max(counts) > 0:
        sentence = (
            f"The kernel killed worker {worker} for want of memory: SIGKILL, and its cgroup counts "
            f"{max(counts)} OOM kill{'s' * (max(counts) > 1)}{doing}."
        )
        return found(
            Cause.OUT_OF_MEMORY,
            sentence,
            [*said, f"{_OOM} of its cgroup is {max(counts)}"],
            "look at its memory before (`watchdogd status`, growth), and at memory.max of its cgroup",
        )
    if counts:
        sentence = (
            f"Worker {worker} was killed by SIGKILL of somebody else: not by watchdogd, and not for want "
            f"of memory{doing}."
        )
        return found(
            Cause.CRASH,
            sentence,
            [*said, f"{_OOM} of its cgroup is 0"],
            "find who sent it: an operator, an orchestrator, systemd (auditctl -a always,exit -S kill)",
        )
    sentence = (
        f"Worker {worker} was killed by a SIGKILL that is not watchdogd's{doing}; whether for want of "
        "memory or by another "
        "process cannot be told without the counters of its cgroup or the kernel log."
    )
    return found(
        Cause.UNKNOWN,
        sentence,
        said,
        'look for "Out of memory: Killed process" in the kernel log (dmesg)',
        "run workers in a cgroup of their own (`worker_slice`): its counter decides",
    )


def _signal(case: Case) -> int | None:
    for text in (case.verdict.detail, case.incident.exit or ""):
        match = re.search(r"killed by signal (\d{1,3})\b", text, re.ASCII)
        if match:
            return int(match[1])
    return None


def _exit(case: Case) -> str:
    signal = _signal(case)
    if signal is not None:
        return f"was killed by signal {signal}{f' ({_SIGNALS[signal]})' if signal in _SIGNALS else ''}"
    match = re.search(r"exited with status (\d{1,3})\b", f"{case.verdict.detail} {case.incident.exit or ''}", re.ASCII)
    return f"exited with status {match[1]}" if match else "ended, nobody knows how"


def _last_doing(case: Case) -> list[str]:
    """For the sentence, then as facts: the call that it was in as it ended."""
    calls = [
        call for lane in (case.own.lanes if case.own else ()) for call in lane.in_flight if call.operation != "step"
    ]
    if not calls:
        return [""]
    call = min(calls, key=lambda c: (c.entered_ns, c.operation))
    return [f", in {in_stage(call)}", f"it was in {in_stage(call)}, entered {case.before(call.entered_ns)}"]


def silent_output(case: Case) -> Diagnosis | None:
    if case.verdict.verdict != Verdict.SILENT_OUTPUT.value:
        return None
    own, since = case.own, case.before(case.since_ns)
    kind = own.bad_kind if own is not None else None
    many = f"{own.bad_outputs} in a row" if own is not None and own.bad_outputs else case.verdict.detail or "some"
    steps = {
        "zero": 'look for work in two streams with no order between them: `order="strict"` names buffer and streams',
        "nan": "look at the input of the first bad one, and for overflow in half precision",
        "stale": "look for a result that is read before its synchronize, or by another thread's context",
        "canary": "the golden input gives another answer: a changed engine or plugin, or a faulty device",
    }
    sentence = (
        f"Worker {case.incident.worker} gave bad outputs with no error: {many}{f', kind {kind}' if kind else ''}, "
        f"the first {since}; its calls return."
    )
    said = [case.verdict.detail] if case.verdict.detail else []
    said += _misuses(case)
    if own is not None and own.last_error is not None:
        said.append(f"its last CUDA error is {own.last_error}")
    return found(
        Cause.SILENT_OUTPUT,
        sentence,
        said,
        steps.get(kind or "", "look at the input of the first bad one"),
        "`check_context = true` tells if a call met another context than its thread's",
    )


def leak(case: Case) -> Diagnosis | None:
    if case.verdict.verdict != Verdict.LEAK.value:
        return None
    up = None if case.own is None or case.own.ready_ns is None else max(0, case.at_ns - case.own.ready_ns)
    after = f" after {span(up)} of work" if up is not None else ""
    sentence = (
        f"Worker {case.incident.worker} holds more and more{after}: {case.verdict.detail or 'of what is not told'}."
    )
    said = [case.verdict.detail] if case.verdict.detail else []
    held = [p.resident for p in case.incident.processes if p.resident is not None]
    said += [f"{listed([f'{size >> 20} MiB' for size in sorted(held, reverse=True)])} resident"] if held else []
    return found(
        Cause.LEAK,
        sentence,
        said,
        "compare two dumps of its allocator (tracemalloc, torch.cuda.memory_snapshot)",
        "buffers that are freed in another thread wait for their owner: DeferredFree tells how many",
    )
