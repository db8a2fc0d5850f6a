"""What makes two incidents the same: operation, stage, GPU kernel and stack, as far as they are known.

The hash is kept with incidents for months and compared between machines, so nothing goes into it that one run has and
the next has not: no pid, time, address or worker (two models that hang in one plugin hang alike), and no judgement,
as a later version may judge better. Line numbers are left out as well: they move with every edit above them, and a
function with its file is exact enough to be the same hang. What was not collected is not in it, so an incident with
``evidence = "full"`` has another signature than the same hang without.

Invariant: pure. Changing what goes into the hash changes ``SCHEME``, else old incidents would never repeat.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from watchdogd.decide.causes import pairs
from watchdogd.decide.causes.case import Case, Stuck
from watchdogd.incident import Incident
from watchdogd.model import Verdict

SCHEME = 1
FRAMES = 6  # innermost ones: further out, every caller of a library would be another hang
_TOLD_BY_DETAIL = {v.value for v in (Verdict.CRASHED, Verdict.EXITED, Verdict.STICKY_ERROR, Verdict.STARTUP)}
_TOLD_BY_KIND = {v.value for v in (Verdict.LEAK, Verdict.STALL, Verdict.UNREADABLE)}
_ADDRESS = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_FRAME = re.compile(r"(?P<function>.*?)(?:\s*\((?P<file>[^()]*?)(?::[0-9]+)?\))?", re.DOTALL)


def signature(incident: Incident) -> tuple[str, str]:
    """A short hash, and what it was made of in words."""
    case = Case(incident)
    verdict = incident.verdict.verdict
    calls = _calls(case)
    operation = " and ".join(call.call.operation for call in calls) or incident.verdict.operation
    stage = " and ".join(dict.fromkeys(call.call.stage for call in calls if call.call.stage)) or incident.verdict.stage
    how = _how(case)
    kernels = sorted({_kernel(kernel.name) for kernel in incident.kernels} - {""})
    frames = _stack(case, calls)
    parts = {"scheme": SCHEME, "verdict": verdict, "how": how, "operation": operation, "stage": stage,
             "kernels": kernels, "stack": frames}  # fmt: skip
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    words = [f"{verdict} {operation}" if operation else verdict or "nothing known"]
    words += [how] if how else []
    words += [f"stage {stage}"] if stage else []
    words += [f"kernel {name}" for name in kernels]
    words += [f"at {' < '.join(frames)}"] if frames else []
    return digest, ", ".join(words)


def _calls(case: Case) -> list[Stuck]:
    """The call that hangs, and one that it is dead-locked with: which of two the verdict is on is a matter of luck."""
    hung = case.hung
    if hung is None:
        return []
    callback = next((s for s in case.beside if s.call.stage == pairs.STAGE_OF_HOST_FUNCTIONS), None)
    if callback is not None or hung.call.stage == pairs.STAGE_OF_HOST_FUNCTIONS:
        return [callback or hung]
    partner = pairs.partner(case)
    return sorted([hung, *([] if partner is None else [partner])], key=lambda s: (s.call.operation, s.call.stage or ""))


def _how(case: Case) -> str:
    """What tells verdicts of one kind apart: an exit, an error, what is bad about outputs, what grows."""
    verdict, detail = case.verdict.verdict, _ADDRESS.sub("#", case.verdict.detail)
    if verdict in _TOLD_BY_DETAIL:
        return detail
    if verdict == Verdict.SILENT_OUTPUT.value and case.own is not None and case.own.bad_kind:
        return case.own.bad_kind
    return _NUMBER.sub("#", detail) if verdict in _TOLD_BY_KIND or verdict == Verdict.SILENT_OUTPUT.value else ""


def _kernel(name: str) -> str:
    """Without its arguments, launch configuration and what a compiler made unique."""
    return _ADDRESS.sub("#", re.split(r"<<<|\(", name, maxsplit=1)[0]).strip()


def _stack(case: Case, calls: Sequence[Stuck]) -> list[str]:
    """Of the first of ``calls``. A step or a start does not tell the thread: the one that runs, else the first one."""
    tid = calls[0].lane.tid if calls else case.verdict.tid
    if not tid:
        running = {thread.tid for thread in case.threads if thread.state == "R"}
        tids = {stack.tid for stack in case.incident.stacks if stack.tid}
        tid = min(tids & running or tids, default=0)
    frames = case.frames(tid) or case.frames(tid, "native")
    return [text for text in map(_frame, frames) if text][:FRAMES]


def _frame(frame: str) -> str:
    match = _FRAME.fullmatch(frame)
    function, file = (match["function"], match["file"]) if match else (frame, None)
    name = _ADDRESS.sub("#", re.sub(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?$", "", function)).rpartition(".")[2].strip()
    base = _ADDRESS.sub("#", (file or "").rpartition("/")[2])
    if name.startswith("<") and name != "<module>":  # comprehensions are frames in some versions of Python only
        return ""
    return f"{name} ({base})" if base else name
