"""The guards of ``watchdogd.worker.cuda`` on a GPU: misuse is caught, memory is held, streams are ordered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.gpu.conftest import Machine
from tests.gpu.results import Results
from tests.helpers.worker_process import ROOT

PROGRAM = """
import json, threading, time
from cuda.bindings import driver
from tests.gpu.kernels import Kernels
from watchdogd.worker import cuda
from watchdogd.worker.cuda_memory import Pool
from watchdogd.worker.cuda_poison import Output, Poison
from watchdogd.worker.cuda_thread import CudaThread

def caught(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__

def misuse(ctx, stream):
    def foreign():
        with ctx.expected:
            driver.cuCtxSetCurrent(primary)
    primary = driver.cuDevicePrimaryCtxRetain(0)[1]
    told = [caught(foreign), caught(stream.synchronize)]
    ctx.rebind()
    return [*told, caught(stream.synchronize)]

def check_ns(ctx):
    rounds = range(100_000)
    begin = time.perf_counter_ns()
    for _ in rounds:
        ctx.check()
    return (time.perf_counter_ns() - begin) / len(rounds)

def host_function(stream):
    seen = []
    stream.host_function(lambda: seen.append(caught(stream.synchronize)))
    stream.synchronize()
    stream.host_function(lambda: 1 / 0)
    return [*seen, caught(stream.synchronize), caught(stream.synchronize)]

def pool_of(ctx, stream):
    kernels, pool = Kernels(ctx, stream, 50_000), Pool(ctx)
    first = pool.alloc(1 << 20)
    address = first.address
    kernels.sleep()
    pool.free(first, stream)
    second = pool.alloc(1 << 20).address  # the first is still in use
    stream.synchronize()
    third = pool.alloc(1 << 20).address
    pool.close()
    return [second == address, third == address]

def ordered(order):
    with cuda.Context(order=order) as ctx:
        one, two, buffer = ctx.stream(), ctx.stream(), ctx.alloc(4096)
        there, back = ctx.alloc_host(4096), ctx.alloc_host(4096)
        there.view[:] = bytes(range(256)) * 16
        kernels = Kernels(ctx, one, 50_000)
        one.fill(buffer, 0)
        one.synchronize()
        kernels.sleep()
        one.copy_in(buffer, there)
        two.copy_out(back, buffer)
        two.synchronize()
        return back.view == there.view

def poisoned():
    with cuda.Context() as ctx:
        stream, buffer, host = ctx.stream(), ctx.alloc(4096), ctx.alloc_host(4096)
        poison = Poison(out=Output(buffer, host, 4))
        poison.fill(stream)
        stream.copy_out(host, buffer)
        stream.synchronize()
        untouched = caught(poison.check)
        poison.fill(stream)
        stream.fill(buffer, 0)
        stream.copy_out(host, buffer)
        stream.synchronize()
        return [untouched, caught(poison.check)]

with CudaThread() as gpu:
    stream = gpu.submit(gpu.context.stream).result(60)
    told = {
        "elsewhere": caught(stream.synchronize),
        "misuse": gpu.submit(misuse, gpu.context, stream).result(60),
        "check_ns": gpu.submit(check_ns, gpu.context).result(60),
        "host_function": gpu.submit(host_function, stream).result(60),
        "pool": gpu.submit(pool_of, gpu.context, stream).result(60),
    }
told |= {"ordered": [ordered("insert"), ordered("off")], "poisoned": poisoned()}
print(json.dumps(told))
"""


def test_the_guards_hold(machine: Machine, results: Results) -> None:
    environment = {**os.environ, **machine.environment, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    results.add("context.check() of a pinned context", told.pop("check_ns") / 1e3, "us")
    assert told == {
        "elsewhere": "ContextLost",
        "misuse": ["ContextLost", "ContextLost", None],
        "host_function": ["HostFunctionError", "ZeroDivisionError", None],
        "pool": [False, True],
        "ordered": [True, False],
        "poisoned": ["UnwrittenError", None],
    }
