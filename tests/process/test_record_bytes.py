"""What the record costs an eMMC: nothing while all is well, and a known number of bytes for each hang."""

from __future__ import annotations

from tests.helpers.running import Supervised, wait_until, worker

SERVE = "serve()"
HANG_TWICE = """
worker.ready()
if INCARNATION > 2:
    serve()
wait_for(f"hang{INCARNATION}")
with worker.call("sync"):
    hang()
"""
HANGS_A_DAY = 24 * 60
MOST_BYTES_PER_HANG = 4096


def recorded_bytes(supervised: Supervised) -> int:
    return sum(path.stat().st_size for path in supervised.state.rglob("*") if path.is_file())


def written_bytes(supervised: Supervised) -> int:
    """By the recorder, as the kernel counts them: whatever file they went to."""
    children = f"/proc/{supervised.process.pid}/task/{supervised.process.pid}/children"
    with open(children, encoding="ascii") as file:
        pids = file.read().split()
    for pid in pids:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"watchdogd.publish.recorder" not in file.read().split(b"\0"):
                continue
        with open(f"/proc/{pid}/io", encoding="ascii") as file:
            return int(dict(line.split(": ") for line in file)["wchar"])
    raise AssertionError("no recorder runs")


def test_a_quiet_vehicle_writes_nothing() -> None:
    workers = {f"model_{name}": worker(SERVE, deadlines={"sync": "2s", "step": "3s"}) for name in "ab"}
    with Supervised(workers) as supervised:
        for name in workers:
            supervised.wait_event("phase", name, phase="running")
        before = recorded_bytes(supervised)
        supervised.let_pass(1.2)  # two rounds of housekeeping, a hundred frames
        assert recorded_bytes(supervised) == before


def test_a_hang_costs_the_disk_less_than_4_kib() -> None:
    hung = worker(HANG_TWICE, deadlines={"sync": "50ms"}, accelerator="gpu0")
    others = {f"model_{name}": worker(SERVE, accelerator="gpu0", deadlines={"sync": "2s"}) for name in "abcde"}
    with Supervised({"model_h": hung, **others}) as supervised:
        for name in ("model_h", *others):
            supervised.wait_event("ready", name)
        before, file_before = written_bytes(supervised), recorded_bytes(supervised)
        for incarnation in (1, 2):
            supervised.touch(f"hang{incarnation}")
            supervised.wait_event("ready", "model_h", incarnation=incarnation + 1)
        per_hang = (recorded_bytes(supervised) - file_before) / 2
        assert 500 < per_hang < MOST_BYTES_PER_HANG
        echoed = (written_bytes(supervised) - before) / 2 - per_hang
        print(f"a hang: {per_hang:.0f} bytes to the record, {echoed:.0f} to the log and to the supervisor")
        print(f"one a minute: {per_hang * HANGS_A_DAY / 2**20:.2f} MiB a day to the record")


def test_a_worker_that_crashes_without_end_is_bounded_and_said_so() -> None:
    restart = {"backoff": "1ms", "backoff_max": "1ms", "budget": 1_000_000}
    crash = worker("os.kill(os.getpid(), signal.SIGKILL)", restart=restart)
    small = {"events_max_bytes": "4KiB"}
    with Supervised({"model_h": crash, "model_a": worker(SERVE)}, supervisor=small) as supervised:
        told = supervised.wait_event("suppressed")
        assert told["count"] >= 1 and sum(told["kinds"].values()) == told["count"]
        wait_until(lambda: supervised.snapshot()["events"]["suppressed"] > told["count"], what=supervised.log)
        supervised.ask("restart", "model_a")
        supervised.wait_event("ready", "model_a", incarnation=2)  # another's storm is not its silence
