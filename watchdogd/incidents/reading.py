"""What a spool holds of shared memory, as calls, lanes and workers.

Invariant: pure; a word that cannot be a call is none, and an entry of a ring that may have been written while it was
read is left out: fewer calls, never a wrong one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from watchdogd import abi, bad_outputs
from watchdogd.histogram import Histogram
from watchdogd.incident import Call, Lane, Worker
from watchdogd.model import SECOND
from watchdogd.observe import driver_region
from watchdogd.pulse import Pulse, word_offset

FUTURE_TOLERANCE_NS = SECOND  # shared memory is read after the instant that it stands for
_STAMP_LOSS_NS = abi.CODE_MASK  # a stamp is up to so much earlier than the entry
_TURNED_OVER = 3  # entries that are left
_OWNER_TID = 0xFFFF_FFFF

Orphans = Collection[tuple[int, int]]  # (offset, word) of calls whose thread is gone


def worker(told: Mapping[str, Any], blobs: Mapping[str, bytes], at_ns: int) -> Worker:
    """``told``: what a spool's head says of it; ``blobs``: of all workers."""
    known: dict[str, Any] = {
        key: told.get(key) for key in ("accelerator", "pid", "spawned_ns", "ready_ns", "killed_ns", "unread")
    }  # as the supervisor knows it
    name = str(told["name"])
    result = Worker(
        name=name,
        phase=str(told["phase"]),
        incarnation=int(told["incarnation"]),
        coupled_with=tuple(map(str, told.get("coupled_with") or ())),
        typical_ns=typical_ns(blobs.get(f"{name}/sums", b"")),
        **known,
    )
    raw = blobs.get(f"{name}/pulse")
    if raw is None:
        return result
    if len(raw) < abi.HOT_OFFSET or (len(raw) - abi.HOT_OFFSET) % abi.HOT_STRIDE:
        return replace(result, unread=f"{len(raw)} bytes of it are no heartbeat")
    pulse = Pulse(raw, (len(raw) - abi.HOT_OFFSET) // abi.HOT_STRIDE)
    error = pulse.header("last_error") & abi.ERROR_MASK
    run = bad_outputs.under_way(pulse, at_ns)
    driver = driver_region.parse(blobs.get(f"{name}/driver", b""))
    orphans = {(int(offset), int(word)) for offset, word in told.get("orphaned") or ()}
    return replace(
        result,
        lanes=tuple(_lanes(name, pulse, blobs, orphans, at_ns)),
        last_error=error or None,
        misuses=driver.misuses if driver else 0,
        misuse=_misuse(driver.misuse) if driver and driver.misuse else None,
        misuse_ns=driver.misuse.at_ns if driver and driver.misuse else None,
        misuse_found=driver.misuse.found if driver and driver.misuse else None,
        bad_outputs=run.length if run else 0,
        bad_kind=run.kind if run else None,
        last_step_ns=pulse.header("last_step_ns") or None,
    )


def _misuse(last: driver_region.Misuse) -> str:
    return f"the last one thread {last.tid} of pid {last.pid}: context {last.found:#x} in place of {last.expected:#x}"


def _lanes(name: str, pulse: Pulse, blobs: Mapping[str, bytes], orphans: Orphans, at_ns: int) -> Iterator[Lane]:
    stages = blobs.get(f"{name}/stages", b"")
    earliest_ns = pulse.header("spawned_ns") & ~abi.CODE_MASK
    latest_ns = at_ns + FUTURE_TOLERANCE_NS
    for number in range(pulse.lanes):
        owner, calls = pulse.lane(number, "owner"), pulse.lane(number, "calls")
        words = [(column, pulse.lane(number, column)) for column in ("outer", "inner", "step")]
        if not owner and not any(word for _, word in words):
            continue  # nobody's now
        tid = owner & _OWNER_TID
        stage = stage_name(stages, pulse.lane(number, "stage") & abi.CODE_MASK) if tid else None
        believed = [(c, word) for c, word in words if word and earliest_ns <= word <= latest_ns]
        in_flight = [call for call in (_in_flight(column, word) for column, word in believed) if call is not None]
        if in_flight and stage is not None:
            in_flight[-1] = Call(in_flight[-1].operation, in_flight[-1].entered_ns, None, stage)
        yield Lane(
            lane=number,
            pid=owner >> 32,
            tid=tid,
            in_flight=tuple(in_flight),
            stage=stage,
            calls=calls,
            steps_begun=pulse.lane(number, "steps_begun"),
            steps_done=pulse.lane(number, "steps_done"),
            ring=ring(blobs.get(f"{name}/ring.{number}", b""), calls, at_ns, stages),
            orphaned=any((word_offset(number, column), word) in orphans for column, word in believed),
        )


def _in_flight(column: str, word: int) -> Call | None:
    code, entered_ns = word & abi.CODE_MASK, word & ~abi.CODE_MASK
    if column == "step":
        return Call("step", entered_ns)
    return Call(abi.OPERATIONS[code], entered_ns) if 0 < code < len(abi.OPERATIONS) else None


def ring(raw: bytes, calls: int, at_ns: int, stages: bytes = b"") -> tuple[Call, ...]:
    """The last calls of a lane, oldest first. ``calls``: how many it had left, read *before* the ring was, after
    ``at_ns``.

    Calls of one thread end one after the other, so from the newest that was counted back, ends may only get earlier.
    Where one is later, its place has been written anew since; then the one after it may be half written, and where
    there is none, the oldest may: that is the next to be overwritten. Where next to none is left, even the newest may
    be one that is being written, a whole turn later. A call that was begun after ``at_ns`` is none of that instant.
    """
    if len(raw) < abi.RING_ENTRIES * abi.RING_ENTRY_WORDS * abi.WORD:
        return ()
    words = memoryview(raw[: abi.RING_ENTRIES * abi.RING_ENTRY_WORDS * abi.WORD]).cast("Q").tolist()
    found: list[Call] = []
    until_ns = 0
    overwritten = calls >= abi.RING_ENTRIES
    for number in range(calls - 1, max(0, calls - abi.RING_ENTRIES) - 1, -1):
        place = number % abi.RING_ENTRIES * abi.RING_ENTRY_WORDS
        entered, rest = words[place], words[place + 1]
        code, entered_ns, duration_ns = entered & abi.CODE_MASK, entered & ~abi.CODE_MASK, rest >> abi.CODE_BITS
        ended_ns = entered_ns + duration_ns
        is_later = entered_ns > at_ns
        if is_later and not found:
            continue
        if is_later or not 0 < code < len(abi.OPERATIONS) or (found and ended_ns > until_ns + _STAMP_LOSS_NS):
            overwritten = True
            break
        until_ns = ended_ns
        stage = rest & abi.CODE_MASK
        found.append(Call(abi.OPERATIONS[code], entered_ns, duration_ns, stage_name(stages, stage)))
    if overwritten:
        found = found[:-1] if len(found) > _TURNED_OVER else []
    return tuple(reversed(found))


def stage_name(table: bytes, code: int) -> str | None:
    """``table``: the stage names of a heartbeat, or as much of its beginning as was kept."""
    if code == 0:
        return None
    if code < len(abi.WELL_KNOWN_STAGES):
        return abi.WELL_KNOWN_STAGES[code]
    raw = table[code * abi.STAGE_NAME_SIZE : (code + 1) * abi.STAGE_NAME_SIZE]
    name = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in name) or f"stage {code}"


def histograms(raw: bytes) -> dict[str, Histogram]:
    """Of the sum of a worker's cold blocks, by operation, ``step`` for steps; nothing where it was not kept."""
    if len(raw) < abi.RING_OFFSET:
        return {}
    words = memoryview(raw[: abi.RING_OFFSET]).cast("Q").tolist()
    names = ("step", *abi.OPERATIONS[1:])
    blocks = [words[code * abi.HISTOGRAM_WORDS : (code + 1) * abi.HISTOGRAM_WORDS] for code in range(abi.HISTOGRAMS)]
    return {name: Histogram(block[0], block[1:]) for name, block in zip(names, blocks, strict=True)}


def typical_ns(sums: bytes) -> tuple[tuple[str, int], ...]:
    """The median of each operation that was ever done."""
    medians = ((name, history.quantile_ns(0.5)) for name, history in histograms(sums).items())
    return tuple((name, median) for name, median in medians if median is not None)
