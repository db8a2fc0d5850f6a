"""What is remembered of earlier escalations, over restarts of the supervisor and of the machine.

Invariant: pure, and no wall clock decides: an instant counts within its own boot; one of an earlier boot counts as the
beginning of this one, however a clock without a battery was set meanwhile. So what is remembered can only make an
escalation come later, never sooner.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

SCHEMA = 1
QUIET_BOOTS = 3  # so many boots later all is forgotten if nothing came again: a drive may be shorter than any interval
MOST_SEEN = 16  # and LONGEST_REASON: it is handed to its writer through a pipe
LONGEST_REASON = 500
MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Seen:
    """A cause that was acted on, or refused."""

    name: str
    since_ns: int
    boot_id: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Memory:
    boot_id: str = ""  # of the last change
    action: str = ""  # the last one; none yet
    outcome: str = ""  # of it: "done" "failed" "in a dry run" "unknown"; none yet: it was about to be taken
    reason: str = ""
    time: str = ""  # for people
    acted_boot_id: str = ""  # of the last that did not fail, as far as that is known
    acted_ns: int = 0
    quiet_boots: int = 0  # begun since then
    seen: tuple[Seen, ...] = ()

    def repeated(self, name: str, since_ns: int, boot_id: str, interval_ns: int, now_ns: int) -> str | None:
        """Why nothing is done about a cause that was seen before; None if it was not, or it is long enough ago."""
        for past in self.seen:
            if past.name != name:
                continue
            if (past.since_ns, past.boot_id) == (since_ns, boot_id):
                return "this very cause had its escalation"
            if now_ns < _until_ns(past.boot_id, past.at_ns, boot_id, interval_ns):
                return "it has come again within min_interval: what did not help is not done twice"
        return None

    def blocked_until_ns(self, boot_id: str, interval_ns: int) -> int:
        """No action before."""
        return _until_ns(self.acted_boot_id, self.acted_ns, boot_id, interval_ns) if self.acted_boot_id else 0

    def notice(self, causes: tuple[tuple[str, int], ...], boot_id: str, now_ns: int) -> Memory:
        """``causes``: name and since_ns."""
        names = {name for name, _ in causes}
        kept = [past for past in self.seen if past.name not in names]
        new = [Seen(name, since_ns, boot_id, now_ns) for name, since_ns in causes]
        return replace(self, boot_id=boot_id, quiet_boots=0, seen=tuple([*kept, *new][-MOST_SEEN:]))

    def act(self, action: str, outcome: str, reason: str, time: str, boot_id: str, now_ns: int) -> Memory:
        told = replace(self, action=action, outcome=outcome, reason=reason[:LONGEST_REASON], time=time)
        return replace(told, acted_boot_id=boot_id, acted_ns=now_ns)

    def failed(self, tried: Memory) -> Memory:
        """``tried`` is told, and nothing else of it counts: it may be tried again."""
        failed = replace(tried, outcome="failed", seen=self.seen)
        return replace(failed, acted_boot_id=self.acted_boot_id, acted_ns=self.acted_ns)

    def told(self) -> str:
        """The last action, for people."""
        if self.outcome == "unknown":
            return "unknown, since its note cannot be read"
        text = f"{self.action} {self.outcome}" if self.outcome else f"about to {self.action}"
        return f"{text} at {self.time}: {self.reason}"

    def begin_boot(self, boot_id: str) -> Memory:
        """At the supervisor's start."""
        if boot_id == self.boot_id or not (self.action or self.seen):
            return self
        later = replace(self, boot_id=boot_id, quiet_boots=self.quiet_boots + 1)
        return Memory() if later.quiet_boots >= QUIET_BOOTS else later

    def encode(self) -> bytes:
        return json.dumps({"schema": SCHEMA, **asdict(self)}).encode() + b"\n"


def decode(raw: bytes) -> Memory:
    """Raises ValueError: it is not a memory, or not one of this version."""
    try:
        told = json.loads(raw)
        if told.pop("schema") != SCHEMA:
            raise ValueError("of another version")
        seen = tuple(Seen(**past) for past in told.pop("seen"))
        memory = Memory(**told, seen=seen)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    texts = [memory.boot_id, memory.action, memory.outcome, memory.reason, memory.time, memory.acted_boot_id]
    numbers = [memory.acted_ns, memory.quiet_boots]
    for past in seen:
        texts += past.name, past.boot_id
        numbers += past.since_ns, past.at_ns
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise ValueError("a field is of the wrong type")
    return memory


def _until_ns(then_boot_id: str, then_ns: int, boot_id: str, interval_ns: int) -> int:
    return (then_ns if then_boot_id == boot_id else 0) + interval_ns
