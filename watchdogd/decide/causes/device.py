"""What the GPU itself and its driver tell: faults in the kernel log, kernels of a core dump.

Invariant: pure; a message is evidence against a worker only where it is attributed to it, or where it is about the
whole of its accelerator. A time-out of a context switch or a channel follows from a hang and is no cause of one.
"""

from __future__ import annotations

from watchdogd.decide.causes import others
from watchdogd.decide.causes.case import Case
from watchdogd.decide.causes.words import Cause, found, listed, span
from watchdogd.incident import Diagnosis, Kernel, KernelLine
from watchdogd.model import KernelKind

OWN_FAULTS = {13, 31, 32, 69, 94, 138}  # Xids and notifiers that the work of a process brings about
DEVICE_FAULTS = {48, 62, 74, 79, 95, 119, 120, 154, 158}  # of the device or its firmware, whoever is named beside it
_OF_DEVICE = {KernelKind.GPU_DOWN.value, KernelKind.DLA_TIMEOUT.value, KernelKind.DLA_RESET.value}
_NUMBERED = {KernelKind.XID.value, KernelKind.NOTIFIER.value}
WAITS_FOR_GPU = {"sync", "event", "copy", "free", "other"}  # operations that wait for what was launched


def fault(case: Case) -> Diagnosis | None:
    accelerator, worker = case.incident.accelerator, case.incident.worker
    of_device = [line for line in case.messages if _about_device(line) and line.accelerator == accelerator is not None]
    lines = of_device + [line for line in case.messages if _about_work(line) and line.worker == worker]
    if not lines:
        return None
    line = lines[0]
    whose = f"the device {accelerator}" if of_device else f"work of worker {worker}"
    since = f"; {case.where} does not return since {case.before(case.since_ns)}" if case.hung is not None else ""
    sentence = f"The driver told of a fault of {whose} {case.before(line.at_ns)}: {_short(line)}{since}."
    said = [f"the kernel said {case.before(item.at_ns)}: {item.text}" for item in lines]
    if of_device:
        steps = (
            "a restart of the worker may not help: reset the device, or reboot; `watchdogd status` tells "
            "if it recovers",
            "if it comes again: driver version, power, temperature, memory; the vendor's bug report",
        )
    else:
        steps = (
            "run the worker's model under compute-sanitizer with the same input",
            "`bisect` tells the stage; a GPU core dump on exception tells the kernel and its line",
        )
    return found(Cause.DEVICE_FAULT, sentence, [*said, *others.facts(case)], *steps)


def _about_device(line: KernelLine) -> bool:
    return line.about in _OF_DEVICE or (line.about in _NUMBERED and line.number in DEVICE_FAULTS)


def _about_work(line: KernelLine) -> bool:
    return line.about == KernelKind.MMU_FAULT.value or (line.about in _NUMBERED and line.number in OWN_FAULTS)


def _short(line: KernelLine) -> str:
    return line.text if len(line.text) <= 120 else f"{line.text[:117]}..."


def named(kernel: Kernel) -> str:
    return f"{kernel.name}{f' ({kernel.location})' if kernel.location else ''}"


def kernel_without_end(case: Case) -> Diagnosis | None:
    """A kernel was on the GPU long after the call that waits for it should have returned."""
    hung = case.hung
    if hung is None or not case.kernels or not case.is_stuck(hung) or others.unsettled(case) or threads_going_on(case):
        return None
    if not WAITS_FOR_GPU & {stuck.call.operation for stuck in (hung, *case.beside)}:
        return None
    names = list(dict.fromkeys(named(kernel) for kernel in case.kernels))
    what = f"Kernel {names[0]} does not end" if len(names) == 1 else f"One of the kernels {listed(names)} does not end"
    sentence = (
        f"{what}: {case.where} waits for it since {case.before(hung.call.entered_ns)}"
        f"{others.among_threads(case)}{others.order(case)}."
    )
    return found(
        Cause.KERNEL_WITHOUT_END,
        sentence,
        [*kernel_facts(case), *others.facts(case)],
        f"look at the loops and the waits for memory in {names[0] if len(names) == 1 else 'these kernels'}",
        "open the core dump of this incident: cuda-gdb -ex 'target cudacore FILE' -ex 'info cuda kernels'",
        "no line is named: compile with -lineinfo"
        if not any(kernel.location for kernel in case.kernels)
        else "run the same input again with that kernel alone, under compute-sanitizer --tool synccheck",
    )


def threads_going_on(case: Case) -> list[int]:
    """Other threads of the process that waited for work of theirs since the hung call began, and got it."""
    hung, own = case.hung, case.own
    if hung is None or own is None:
        return []
    return sorted(
        {
            lane.tid
            for lane in own.lanes
            if lane.pid == hung.lane.pid and lane.tid not in (0, hung.lane.tid)
            for call in lane.ring
            if call.operation in WAITS_FOR_GPU - {"other"} and hung.call.entered_ns <= call.entered_ns <= case.at_ns
        }
    )


def kernel_facts(case: Case) -> list[str]:
    said = [
        f"the core dump shows kernel {named(kernel)} on the GPU, "
        + " ".join(filter(None, (kernel.grid and f"grid {kernel.grid}", kernel.block and f"block {kernel.block}")))
        for kernel in case.kernels
    ]
    if case.is_dump_read and not case.kernels:
        said.append("the core dump shows no kernel on the GPU")
    if case.load is not None:
        least, most = case.load
        said.append(f"load of {case.incident.accelerator} during the call: {least:.0%} to {most:.0%}")
    hung = case.hung
    if hung is not None and hung.usual_ns is not None:
        said.append(
            f"the call is {case.age_ns(hung) // max(1, hung.usual_ns)} times as old as such calls usually get "
            f"({span(hung.usual_ns)})"
        )
    elif hung is not None:
        said.append("how long such calls usually take is not known")
    return said
