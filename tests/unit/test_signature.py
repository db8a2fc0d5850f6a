"""What makes two incidents the same, and what may differ between them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from watchdogd.decide.signature import signature
from watchdogd.incident import Call, Capture, Incident, Kernel, Lane, Stack, Thread, Verdict, Worker
from watchdogd.incidents.codec import from_json

EVIDENCE = Path(__file__).resolve().parents[1] / "evidence"
FRAMES = ("synchronize (cuda.py:88)", "infer (/opt/app/model_a.py:41)", "main (/opt/app/serve.py:12)")


def hang(at_ns: int = 10**12, pid: int = 700, frames: tuple[str, ...] = FRAMES, **changes: Any) -> Incident:
    """A sync that hangs in stage plugin, with a stack and a core dump."""
    entered = at_ns - 300_000_000
    lane = Lane(3, pid, pid + 4, (Call("sync", entered, None, "plugin"),), calls=at_ns // 10**9)
    worker = Worker("model_a", "running", 1, "gpu0", pid, lanes=(lane,))
    verdict = Verdict("call", at_ns, "sync", "plugin", entered, None, at_ns - 1000, pid, pid + 4, "thread state S")
    known: dict[str, Any] = {
        "captures": (Capture("verdict", at_ns, 1, (worker,)),),
        "stacks": (Stack(pid, pid + 4, "python", frames),),
        "kernels": (Kernel("spin", "(1,1,1)", "(32,1,1)", "kernels.cu:14"),),
    }
    return Incident(f"i{at_ns}", "model_a", 1, "", at_ns, "b", verdict, **{**known, **changes})


def evidence(name: str) -> Incident:
    return from_json(json.loads(EVIDENCE.joinpath(f"{name}.json").read_text()))


def test_another_run_of_the_same_hang_is_the_same() -> None:
    assert signature(hang()) == signature(hang(at_ns=77 * 10**12, pid=90_210))


def test_the_hash_is_the_one_that_kept_incidents_have() -> None:
    """If this changes, nothing that was kept before repeats: then SCHEME changes too."""
    said = "call sync, stage plugin, kernel spin, at synchronize (cuda.py) < infer (model_a.py) < main (serve.py)"
    assert signature(hang()) == ("af8f2b752e22", said)


def test_another_worker_machine_and_version_make_no_difference() -> None:
    other = replace(hang(), worker="model_b", version="9.9", boot_id="x", accelerator="gpu1", captures=())
    assert signature(other) == signature(hang())


def test_another_stage_kernel_operation_or_function_makes_another() -> None:
    one, verdict = hang(), hang().verdict
    others = [
        replace(one, captures=(), verdict=replace(verdict, stage="copy_out")),
        replace(one, captures=(), verdict=replace(verdict, operation="free")),
        replace(one, captures=(), verdict=replace(verdict, verdict="step")),
        replace(one, kernels=(Kernel("gemm"),)),
        replace(one, kernels=()),
        hang(frames=("synchronize (cuda.py:88)", "warm_up (/opt/app/model_a.py:41)")),
    ]
    assert len({signature(item)[0] for item in (one, *others)}) == len(others) + 1


def test_lines_paths_and_addresses_of_frames_make_no_difference() -> None:
    moved = tuple(frame.replace(":88", ":91").replace("/opt/app", "/srv/2") for frame in FRAMES)
    assert signature(hang(frames=moved)) == signature(hang())
    native = ("__pthread_rwlock_wrlock+0x1c (libc.so.6)", "0x00007f3a12cd8810 (libcuda.so.1)")
    again = ("__pthread_rwlock_wrlock+0x9c (libc.so.6)", "0x00007fbb10018810 (libcuda.so.1)")
    assert signature(hang(frames=native)) == signature(hang(frames=again))


def test_arguments_and_launch_of_a_kernel_make_no_difference_but_its_name_does() -> None:
    names = ("spin", "spin(int*, volatile int*)", "spin<<<(1,1,1),(32,1,1)>>>")
    assert len({signature(hang(kernels=(Kernel(name),))) for name in names}) == 1
    assert signature(hang(kernels=(Kernel("spin_2"),))) != signature(hang(kernels=(Kernel("spin"),)))


def test_whichever_of_two_calls_the_verdict_is_on_a_deadlock_is_the_same() -> None:
    def deadlock(first: str, second: str) -> Incident:
        at, entered = 10**12, 10**12 - 300_000_000
        lanes = (
            Lane(1, 7, 8, (Call(first, entered),), calls=9),
            Lane(2, 7, 9, (Call(second, entered + 1000),), calls=9),
        )
        worker = Worker("mlx", "running", 1, lanes=lanes)
        verdict = Verdict("call", at, first, None, entered, pid=7, tid=8)
        return Incident("i", "mlx", 1, "", 0, "b", verdict, captures=(Capture("verdict", at, 1, (worker,)),))

    assert signature(deadlock("alloc", "free")) == signature(deadlock("free", "alloc"))
    assert signature(deadlock("alloc", "free")) != signature(deadlock("alloc", "alloc"))


def test_of_a_step_the_thread_that_runs_tells_the_stack() -> None:
    at = 10**12
    stacks = (Stack(7, 7, "python", ("wait (threading.py:3)",)), Stack(7, 9, "python", ("evict (cache.py:4)",)))
    step = Incident("i", "w", 1, "", 0, "b", Verdict("step", at, entered_ns=1), stacks=stacks)
    assert "wait (threading.py)" in signature(step)[1]
    assert "evict (cache.py)" in signature(replace(step, threads=(Thread(7, 9, state="R"),)))[1]


def test_exits_errors_and_kinds_of_output_are_told_apart() -> None:
    names = ("crash-exception", "crash-segmentation-fault", "exited-unasked", "sticky-700", "story-zero-output", "leak")
    assert len({signature(evidence(name))[0] for name in names}) == len(names)


def test_numbers_that_grow_are_not_in_it() -> None:
    one = evidence("leak")
    other = replace(one, verdict=replace(one.verdict, detail="memory 9001.5 MiB, at most 777.0 MiB in its first 1h"))
    assert signature(one) == signature(other)


def test_a_number_that_is_a_cause_is_in_it() -> None:
    one = evidence("crash-exception")
    other = replace(one, verdict=replace(one.verdict, detail="exited with status 2"))
    assert signature(one) != signature(other)
