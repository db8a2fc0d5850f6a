"""Control of the simulated device: builds it, gives processes the environment to use it, sets faults, reads load.

Invariant: nothing here loads libcuda.so.1. The state is reached through libsimcontrol.so, so a process may control a
simulated device and still use a real driver. Times are CLOCK_MONOTONIC nanoseconds, loads are percent.

    device = SimulatedDevice(tmp_path / "device")
    worker = subprocess.Popen([...], env={**os.environ, **device.environment("model_h")})
    fault = device.fault("hang", label="model_h", scope="process", spread_ms=5)

The kinds of faults and their keys are listed in src/fault_text.h, the calls they can name in src/calls.def.
"""

from __future__ import annotations

import argparse
import ctypes
import enum
import fcntl
import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_BUILD = _HERE.parent.parent / "build" / "simulator"

GPUS = 8
DLAS = 2
_ACCELERATORS = GPUS + DLAS
_PROCESSES = 32


class _FaultReport(ctypes.Structure):
    _fields_ = [
        ("active", ctypes.c_uint64),
        ("fired", ctypes.c_uint64),
        ("fired_ns", ctypes.c_uint64),
        ("spread_ns", ctypes.c_uint64),
        ("lifted_ns", ctypes.c_uint64),
        ("culprit", ctypes.c_int64),
    ]


class _ProcessReport(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_int64),
        ("start_ticks", ctypes.c_uint64),
        ("operations", ctypes.c_uint64),
        ("memory_bytes", ctypes.c_uint64),
        ("busy_ns", ctypes.c_uint64 * _ACCELERATORS),
        ("label", ctypes.c_char * 64),
    ]


class _LoadReport(ctypes.Structure):
    _fields_ = [
        ("shown_percent", ctypes.c_int64),
        ("now_ns", ctypes.c_uint64),
        ("busy_ns", ctypes.c_uint64),
    ]


def make(target: str) -> None:
    """Runs a target of the simulator's Makefile, one process at a time; RuntimeError with its output on failure."""
    _BUILD.mkdir(parents=True, exist_ok=True)
    with open(_BUILD / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # An outer make would hand its jobserver down, whose pipe is not ours to read.
        environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
        made = subprocess.run(
            ["make", "--silent", "-C", str(_HERE), target],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    if made.returncode != 0:
        raise RuntimeError(f"make {target}:\n{made.stdout}{made.stderr}")


@functools.lru_cache(maxsize=1)
def build() -> Path:
    """Compiles what is out of date and returns the folder of libcuda.so.1; safe to call from parallel tests."""
    make("all")
    return _BUILD


@functools.lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build() / "libsimcontrol.so"), use_errno=True)
    state = ctypes.c_void_p
    library.simcontrol_open.argtypes = [ctypes.c_char_p]
    library.simcontrol_open.restype = state
    library.simcontrol_close.argtypes = [state]
    library.simcontrol_close.restype = None
    library.simcontrol_add_fault.argtypes = [state, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    library.simcontrol_add_fault.restype = ctypes.c_uint64
    library.simcontrol_read_fault.argtypes = [state, ctypes.c_uint64, ctypes.POINTER(_FaultReport)]
    library.simcontrol_read_fault.restype = ctypes.c_bool
    library.simcontrol_clear_fault.argtypes = [state, ctypes.c_uint64]
    library.simcontrol_clear_fault.restype = ctypes.c_bool
    library.simcontrol_last_fault.argtypes = [state]
    library.simcontrol_last_fault.restype = ctypes.c_uint64
    library.simcontrol_read_processes.argtypes = [state, ctypes.POINTER(_ProcessReport)]
    library.simcontrol_read_processes.restype = ctypes.c_int
    library.simcontrol_read_load.argtypes = [state, ctypes.c_int, ctypes.POINTER(_LoadReport)]
    library.simcontrol_read_load.restype = None
    library.simcontrol_override_load.argtypes = [state, ctypes.c_int, ctypes.c_int]
    library.simcontrol_override_load.restype = None
    library.simcontrol_set_tegrastats.argtypes = [state, ctypes.c_uint32, ctypes.c_uint32]
    library.simcontrol_set_tegrastats.restype = None
    library.simcontrol_tegrastats.argtypes = [state]
    library.simcontrol_tegrastats.restype = ctypes.c_uint64
    return library


class TegrastatsMode(enum.IntEnum):
    """What the simulated tegrastats does, as the state holds it."""

    NORMAL = 0
    FREEZE = 1
    SILENT = 2
    GARBAGE = 3
    DIE = 4


@dataclass(frozen=True)
class SimulatedProcess:
    """A live process that uses the device; `busy_ns` by accelerator, the interval still open not included."""

    pid: int
    label: str
    operations: int
    memory_bytes: int
    busy_ns: dict[str, int]


@dataclass(frozen=True)
class LoadSample:
    """One look at an accelerator. `shown_percent` is what it is made to show; None = go by `busy_ns`."""

    now_ns: int
    busy_ns: int
    shown_percent: int | None


def accelerator_index(accelerator: int | str) -> int:
    """The state's number for 0..7, "gpu", "gpu0".."gpu7", "dla0" or "dla1"; ValueError for anything else."""
    if isinstance(accelerator, int):
        if 0 <= accelerator < GPUS:
            return accelerator
    elif accelerator == "gpu":
        return 0
    elif accelerator[:3] in ("gpu", "dla") and accelerator[3:].isdecimal():
        number = int(accelerator[3:])
        if accelerator.startswith("gpu") and number < GPUS:
            return number
        if accelerator.startswith("dla") and number < DLAS:
            return GPUS + number
    raise ValueError(f"no accelerator {accelerator!r}")


def _accelerator_name(index: int) -> str:
    return f"gpu{index}" if index < GPUS else f"dla{index - GPUS}"


class Fault:
    """A fault in the state. Each property reads the state anew; LookupError once 256 later ones took its place."""

    def __init__(self, device: SimulatedDevice, fault_id: int) -> None:
        self._device = device
        self.id = fault_id

    def _report(self) -> _FaultReport:
        report = _FaultReport()
        if not _library().simcontrol_read_fault(self._device.state, self.id, ctypes.byref(report)):
            raise LookupError(f"fault {self.id} is forgotten")
        return report

    @property
    def active(self) -> bool:
        """In force, whether or not it has fired; False once lifted or cleared."""
        return bool(self._report().active)

    @property
    def fired(self) -> int:
        """How often it fired."""
        return int(self._report().fired)

    @property
    def fired_ns(self) -> int | None:
        """When it fired: a hang or an error the last time, the others the first time."""
        return int(self._report().fired_ns) or None

    @property
    def spread_ns(self) -> int | None:
        """When a hang's freeze reaches others, maybe still to come; None for scope=stream and before it fired."""
        return int(self._report().spread_ns) or None

    @property
    def lifted_ns(self) -> int | None:
        """When it was seen to be over by itself: healed, or the culprit gone."""
        return int(self._report().lifted_ns) or None

    @property
    def culprit(self) -> int | None:
        """The pid that it fired in."""
        return int(self._report().culprit) or None

    def clear(self) -> None:
        """Takes it out of force: what it holds goes on."""
        if not _library().simcontrol_clear_fault(self._device.state, self.id):
            raise LookupError(f"fault {self.id} is forgotten")


class SimulatedDevice:
    """One simulated device: the state file that the processes using it share. OSError when it cannot be mapped."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).resolve()
        self._state: int | None = _library().simcontrol_open(os.fsencode(self.path))
        if self._state is None:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(self.path))
        self._previous: dict[int, LoadSample] = {}
        for index in range(_ACCELERATORS):
            self._previous[index] = self.load_sample(_accelerator_name(index))

    def close(self) -> None:
        """Unmaps the state; processes that use it are not touched. Using the device or its faults then raises."""
        if self._state is not None:
            _library().simcontrol_close(self._state)
            self._state = None

    def __enter__(self) -> SimulatedDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> int:
        """Where the state is mapped; ValueError once closed."""
        if self._state is None:
            raise ValueError("the device is closed")
        return self._state

    def environment(self, label: str) -> dict[str, str]:
        """What a process needs in its environment to use this device under this label."""
        paths = [str(build())]
        if os.environ.get("LD_LIBRARY_PATH"):
            paths.append(os.environ["LD_LIBRARY_PATH"])
        return {"LD_LIBRARY_PATH": ":".join(paths), "SIMCUDA_STATE": str(self.path), "SIMCUDA_LABEL": label}

    def fault_text(self, text: str) -> Fault:
        """Puts a fault in force, as text; ValueError when it is not one."""
        problem = ctypes.create_string_buffer(256)
        fault_id = _library().simcontrol_add_fault(self.state, text.encode(), problem, len(problem))
        if fault_id == 0:
            raise ValueError(f"{text!r}: {problem.value.decode()}")
        return Fault(self, fault_id)

    def fault(self, kind: str, **keys: str | int | float | bool) -> Fault:
        """Puts a fault in force: `fault("hang", label="x", scope="device")`; ValueError when there is no such."""
        words = [kind]
        for key, value in keys.items():
            words.append(f"{key}={int(value) if isinstance(value, bool) else value}")
        return self.fault_text(" ".join(words))

    def faults(self) -> list[Fault]:
        """Those in force, the oldest first."""
        last = int(_library().simcontrol_last_fault(self.state))
        recent = [Fault(self, fault_id) for fault_id in range(max(1, last - 255), last + 1)]
        return [fault for fault in recent if fault.active]

    def processes(self) -> list[SimulatedProcess]:
        """The live processes that use the device."""
        reports = (_ProcessReport * _PROCESSES)()
        count = _library().simcontrol_read_processes(self.state, reports)
        return [
            SimulatedProcess(
                pid=report.pid,
                label=report.label.decode(errors="replace"),
                operations=report.operations,
                memory_bytes=report.memory_bytes,
                busy_ns={_accelerator_name(index): busy for index, busy in enumerate(report.busy_ns)},
            )
            for report in reports[:count]
        ]

    def load_sample(self, accelerator: int | str = "gpu") -> LoadSample:
        """The accelerator's busy time since the state was created: two samples make a load."""
        report = _LoadReport()
        _library().simcontrol_read_load(self.state, accelerator_index(accelerator), ctypes.byref(report))
        shown = report.shown_percent
        return LoadSample(report.now_ns, report.busy_ns, None if shown < 0 else shown)

    def load(self, accelerator: int | str = "gpu") -> float:
        """Percent of the time since this object's previous call for the same accelerator that it was busy."""
        index = accelerator_index(accelerator)
        sample = self.load_sample(accelerator)
        previous, self._previous[index] = self._previous[index], sample
        return load_between(previous, sample)

    def set_load(self, accelerator: int | str, percent: int | None) -> None:
        """Makes the accelerator show this load whatever it does; None goes back to what is measured."""
        if percent is not None and not 0 <= percent <= 100:
            raise ValueError(f"{percent} is no percentage")
        shown = -1 if percent is None else percent
        _library().simcontrol_override_load(self.state, accelerator_index(accelerator), shown)

    def set_tegrastats(self, mode: TegrastatsMode | str, percent: int = 0) -> None:
        """Switches every simulated tegrastats on this state; `percent` is the load at which "freeze" stands still."""
        chosen = TegrastatsMode[mode.upper()] if isinstance(mode, str) else mode
        _library().simcontrol_set_tegrastats(self.state, int(chosen), percent)

    def tegrastats(self) -> tuple[TegrastatsMode, int]:
        """The mode that was set, and its percentage."""
        word = int(_library().simcontrol_tegrastats(self.state))
        return TegrastatsMode(word >> 32), word & 0xFFFFFFFF


def load_between(earlier: LoadSample, later: LoadSample) -> float:
    """The load in percent over the interval between two samples of one accelerator."""
    if later.shown_percent is not None:
        return float(later.shown_percent)
    interval_ns = later.now_ns - earlier.now_ns
    if interval_ns <= 0:
        return 0.0
    # Busy time is counted in ticks of 4 us, so a full interval can come out a tick too long.
    return max(0.0, min(100.0, 100.0 * (later.busy_ns - earlier.busy_ns) / interval_ns))


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.control", description=__doc__.splitlines()[0])
    parser.add_argument("--state", required=True, metavar="PATH", help="the device's state file, created when absent")
    commands = parser.add_subparsers(dest="command", required=True)
    fault = commands.add_parser("fault", help="put a fault in force and print its id")
    fault.add_argument("words", nargs="+", metavar="WORD", help="KIND [KEY=VALUE ...]")
    clear = commands.add_parser("clear", help="take faults out of force")
    clear.add_argument("ids", nargs="*", type=int, metavar="ID", help="default: all")
    commands.add_parser("faults", help="list the faults in force")
    commands.add_parser("processes", help="list the processes that use the device")
    load = commands.add_parser("load", help="make an accelerator show a load")
    load.add_argument("accelerator")
    load.add_argument("percent", help="0..100, or 'measured'")
    tegrastats = commands.add_parser("tegrastats", help="switch the simulated tegrastats")
    tegrastats.add_argument("mode", choices=[mode.name.lower() for mode in TegrastatsMode])
    tegrastats.add_argument("percent", nargs="?", type=int, default=0)
    environment = commands.add_parser("environment", help="print what a process needs, as shell assignments")
    environment.add_argument("label")
    return parser.parse_args(arguments)


def _run(device: SimulatedDevice, options: argparse.Namespace) -> None:
    if options.command == "fault":
        print(device.fault_text(" ".join(options.words)).id)
    elif options.command == "clear":
        for fault in [Fault(device, number) for number in options.ids] or device.faults():
            fault.clear()
    elif options.command == "faults":
        for fault in device.faults():
            print(f"{fault.id} fired={fault.fired} culprit={fault.culprit or '-'}")
    elif options.command == "processes":
        for process in device.processes():
            print(f"{process.pid} {process.label} operations={process.operations} memory={process.memory_bytes}")
    elif options.command == "load":
        device.set_load(options.accelerator, None if options.percent == "measured" else int(options.percent))
    elif options.command == "tegrastats":
        device.set_tegrastats(options.mode, options.percent)
    elif options.command == "environment":
        for key, value in device.environment(options.label).items():
            print(f"{key}={value}")


def main(arguments: list[str] | None = None) -> int:
    """The command line; 2 for a request that makes no sense."""
    options = _arguments(arguments)
    with SimulatedDevice(options.state) as device:
        try:
            _run(device, options)
        except (ValueError, LookupError) as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
