"""The writing of one incident, as a job of the keeper: what there is of it by now becomes its document on the disk.

Invariant: it only adds to the document that is there; one that was written is whole, whenever this is killed.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from watchdogd.incident import Incident, Outcome
from watchdogd.incidents import assemble, folders, quota, spool, timeline
from watchdogd.incidents.collectors.interface import Evidence
from watchdogd.incidents.judged import judged
from watchdogd.incidents.redact import Redaction
from watchdogd.incidents.spool import BadSpool, Spool
from watchdogd.publish import events

CAPTURES = ("signal", "gone", "ready", "closed")
FILES = ".files"  # after an incident's id: the directory in which its collectors leave theirs
CUT_SHORT = "the supervisor ended before the incident did"


@dataclass(frozen=True, slots=True)
class Places:
    """Directories and rules, as the keeper was told them."""

    spools: str
    root: str
    record: str  # the file of events
    max_bytes: int
    max_count: int
    redact: tuple[str, ...]
    is_shared: bool = False  # the root is not this supervisor's alone

    @property
    def runtime_dir(self) -> str:
        return os.path.dirname(self.spools)

    @property
    def state_dir(self) -> str | None:
        """None where the root is somewhere else."""
        return None if self.is_shared else os.path.dirname(self.root)

    def spool(self, incident: str, when: str = "") -> str:
        return f"{self.spools}/{incident}{when and '.'}{when}{spool.SUFFIX}"

    def files(self, incident: str) -> str:
        return f"{self.spools}/{incident}{FILES}"


@dataclass(frozen=True, slots=True)
class Known:
    """What the keeper has of an incident besides its spools."""

    id: str
    state: str  # as of ``Incident.state``
    outcome: str | None = None
    closed_ns: int | None = None
    events: Sequence[dict[str, Any]] = ()
    outcomes: tuple[Outcome, ...] = ()
    payloads: tuple[bytes, ...] = ()  # pickled by our own jobs: an ``Evidence`` each
    from_record: bool = False  # an earlier keeper was told of it first, so that the record knows more


def attempt(places: Places, known: Known) -> tuple[dict[str, Any], None]:
    """``write``; what keeps it from that is told: as ``error``, or as ``hopeless`` where it will not be otherwise."""
    try:
        return write(places, known), None
    except OSError as error:
        return {"error": f"{error.filename or places.root}: {error.strerror}"}, None
    except (BadSpool, folders.BadFolder) as error:
        return {"hopeless": str(error)}, None


def write(places: Places, known: Known, *, is_last: bool = True) -> dict[str, Any]:
    """Raises OSError, BadFolder, BadSpool. ``is_last``: of those that are written now, so that the quota is kept."""
    is_over = known.state in quota.ENDED
    _move_files(places, known.id)
    change = folders.complete if is_over else folders.update
    change(places.root, known.id, lambda before: _written(places, known, before))
    told: dict[str, Any] = {}
    if is_over:
        told = keep_quota(places) if is_last else {}
        forget(places, known.id)
    return told


def _written(places: Places, known: Known, before: Incident | None) -> Incident:
    first = _spool(places.spool(known.id))
    if before is None and first is None:
        raise BadSpool(f"of incident {known.id} nothing is left")
    incident = before or assemble.begin(first)  # type: ignore[arg-type]  # one of both is there
    last: Spool | None = None
    for when in CAPTURES:
        later = _spool(places.spool(known.id, when))
        if later is not None:
            incident, last = assemble.with_capture(incident, later), later
    if first is not None and last is not None:
        incident = assemble.with_others(incident, first, last)
    found = [evidence for evidence in map(pickle.loads, known.payloads) if isinstance(evidence, Evidence)]
    incident = assemble.with_evidence(incident, found, known.outcomes)
    told = [*known.events, *(recorded(places.record, {known.id})[known.id] if known.from_record else ())]
    incident = assemble.with_events(incident, told)
    redaction = Redaction(places.redact)
    if known.state not in quota.ENDED:
        return judged(replace(incident, state=known.state), redaction)
    if known.state == "closed" and known.outcome is not None:
        incident = assemble.closed(incident, known.outcome, known.closed_ns)
    else:
        incident = assemble.cut_short(incident, CUT_SHORT)
    incident = judged(incident, redaction, [one.incident for one in folders.listing(places.root).kept])
    page = timeline.render(incident).encode(errors="replace")
    folders.write_file(places.root, incident.id, timeline.FILE_NAME, page)
    return incident


def _spool(path: str) -> Spool | None:
    """None: there is none that can be read."""
    try:
        return spool.read(path)
    except (FileNotFoundError, BadSpool):
        return None


def recorded(record: str, incidents: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Their events of the record, which is read once."""
    found: dict[str, list[dict[str, Any]]] = {incident: [] for incident in incidents}
    with suppress(OSError):  # a disk that tells no more than it did
        for event in events.read_file(record):
            if event.get("incident") in found:
                found[str(event["incident"])].append(event)
    return found


def _move_files(places: Places, incident: str) -> None:
    """From memory to the disk."""
    for root, _, names in os.walk(places.files(incident)):
        for name in names:
            path = os.path.join(root, name)
            target = os.path.join(folders.make(places.root, incident), os.path.relpath(path, places.files(incident)))
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            os.makedirs(os.path.dirname(target), folders.FOLDER_MODE, exist_ok=True)
            shutil.copyfile(path, f"{target}.part")
            os.replace(f"{target}.part", target)
            os.unlink(path)


def keep_quota(places: Places) -> dict[str, Any]:
    """What is kept then, for the status."""
    pruned = quota.enforce(places.root, folders.listing(places.root), places.max_bytes, places.max_count)
    return {"kept": len(pruned.kept), "bytes": pruned.size, "over": next(iter(pruned.problems), None)}


def forget(places: Places, incident: str) -> None:
    """What was left of it in memory: it is on the disk."""
    shutil.rmtree(places.files(incident), ignore_errors=True)
    for when in (*CAPTURES, ""):  # the first one last: it says that there is one
        with suppress(FileNotFoundError):
            os.unlink(places.spool(incident, when))


def finish(places: Places, but: Collection[str], before_ns: int, boot_id: str) -> tuple[dict[str, Any], None]:
    """What supervisors that are gone have left unfinished. Raises OSError.

    ``but``: the incidents of this one, as far as it has opened them ``before_ns``.
    """
    left = {name for name in _spooled(places) if not _is_of(_head(places, name), before_ns)}
    if not places.is_shared:  # else it may be that of one who is not gone
        kept = (one.incident for one in folders.listing(places.root).kept if one.incident.state not in quota.ENDED)
        left |= {one.id for one in kept if one.boot_id != boot_id or one.verdict.detected_ns < before_ns}
    left -= set(but)
    told = recorded(places.record, left) if left else {}
    problems = []
    for incident in sorted(left, reverse=True):
        try:
            write(places, Known(incident, "cut short", events=told[incident]), is_last=False)
        except (BadSpool, folders.BadFolder) as error:
            problems.append(str(error))
            forget(places, incident)
    return {**keep_quota(places), **({"error": problems[0]} if problems else {})}, None


def _spooled(places: Places) -> Iterator[str]:
    for name in os.listdir(places.spools):
        incident = name.removesuffix(spool.SUFFIX)
        if incident != name and incident.rpartition(".")[2] not in CAPTURES:
            yield incident


def _head(places: Places, incident: str) -> Mapping[str, Any]:
    found = _spool(places.spool(incident))
    return {} if found is None else found.head


def _is_of(head: Mapping[str, Any], since_ns: int) -> bool:
    """Whether a spool was written since then."""
    capture = head.get("capture")
    return isinstance(capture, dict) and isinstance(capture.get("at_ns"), int) and capture["at_ns"] >= since_ns
