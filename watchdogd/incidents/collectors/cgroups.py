"""The counters of a process's control group that tell of throttling and of memory running out; version 1 and 2.

JetPack 5 still has version 1 for memory and cpu. Invariant: only the files named here are read; one that is not there
(a private namespace, another hierarchy) is left out.
"""

from __future__ import annotations

MOUNT = "/sys/fs/cgroup"
MOST_BYTES = 4096
# A file and which of its lines; of a file with one number: none named.
_Files = dict[str, tuple[str, ...]]
_VERSION_2: _Files = {
    "cpu.stat": ("usage_usec", "nr_periods", "nr_throttled", "throttled_usec"),
    "memory.current": (),
    "memory.max": (),
    "memory.events": ("high", "max", "oom", "oom_kill"),
    "pids.current": (),
    "pids.max": (),
    "cgroup.freeze": (),
}
_VERSION_1: dict[str, _Files] = {
    "cpu": {"cpu.stat": ("nr_periods", "nr_throttled", "throttled_time")},
    "memory": {
        "memory.usage_in_bytes": (),
        "memory.limit_in_bytes": (),
        "memory.failcnt": (),
        "memory.oom_control": ("under_oom", "oom_kill"),
    },
    "pids": {"pids.current": (), "pids.max": ()},
    "freezer": {"freezer.state": ()},
}


def counters(membership: str, mount: str = MOUNT) -> tuple[tuple[str, str], ...]:
    """``membership``: the text of ``/proc/PID/cgroup``."""
    found: dict[str, str] = {}
    for line in membership.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/") or ".." in path.split("/"):  # outside what this namespace shows
            continue
        if hierarchy == "0":
            place = next((root for root in (mount, f"{mount}/unified") if _text(f"{root}/cgroup.controllers")), mount)
            found |= _counters(f"{place}{path}", _VERSION_2)
        else:
            for controller in controllers.split(","):
                found |= _counters(f"{mount}/{controller}{path}", _VERSION_1.get(controller, {}))
    return tuple(sorted(found.items()))


def _counters(place: str, files: _Files) -> dict[str, str]:
    found = {}
    for name, wanted in files.items():
        text = _text(f"{place}/{name}")
        if text is None:
            continue
        if not wanted:
            found[name] = text
            continue
        pairs = (line.partition(" ") for line in text.splitlines())
        found |= {f"{name}.{key}": value for key, _, value in pairs if key in wanted}
    return found


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(MOST_BYTES).strip()
    except OSError:  # not there, not ours, or no longer
        return None
