"""What a worker's processes have mapped, and how they were called: the driver, the runtime, the framework.

``maps`` and ``cmdline`` wait for the lock of the process's memory, which a thread that stands in the kernel may hold
for ever. So this is a collector of its own: when it is given up, nothing else is lost with it.
Invariant: bounded in processes and bytes.
"""

from __future__ import annotations

import os
import re

from watchdogd.incident import Process
from watchdogd.incidents.collectors import proc
from watchdogd.incidents.collectors.interface import Collector, Evidence, Target

MOST_BYTES = 4 << 20  # PyTorch with CUDA: about 200 KiB
MOST_LIBRARIES = 32
MOST_ARGUMENTS = 64
MOST_ARGUMENT = 512
SECONDS = 0.2
_TELLING = re.compile(
    r"lib(?:cuda|cudart|cudla|cudnn|cublas|cublasLt|nccl|nvinfer|nvinfer_plugin|nvonnxparser|tensorrt_rtx|nvdla_\w+"
    r"|nvrm_\w+|nvos|nvmedia\w*|nvcuda\w*|nvrtc|nvidia-[\w-]+|torch|torch_cuda|torch_cpu|c10_cuda|tensorflow_\w+"
    r"|onnxruntime\w*|jaxlib|xla_\w+|tvm|triton|gstreamer-1\.0|deepstream\w*|nvds_\w+|python\d[\d.]*|watchdogd\w*)"
    r"\.so(?:[.\d]*)$"
    r"|(?:_native|xla_extension|cupy_backends|pynvml|driver)\.cpython-[\w.-]+\.so$"
)


def collect(target: Target) -> Evidence:
    pids = proc.family(target.pids)[: proc.MOST_PROCESSES]
    if not pids:
        return Evidence("failed", "none of its processes is there any more")
    found, refused = [], False
    for pid in pids:
        maps = _read(f"/proc/{pid}/maps")
        refused = refused or maps is None
        found.append(Process(pid, command=_command(pid), mapped=libraries((maps or b"").decode("utf-8", "replace"))))
    detail = f"what it has mapped: {proc.RIGHTS}" if refused else ""
    return Evidence("no permission" if refused else "ok", detail, processes=tuple(found))


def libraries(maps: str) -> tuple[str, ...]:
    """Paths of the files that tell what a process runs, of the text of its ``maps``."""
    paths = dict.fromkeys(line.split(maxsplit=5)[5] for line in maps.splitlines() if " /" in line)
    return tuple(path for path in paths if _TELLING.search(os.path.basename(path)))[:MOST_LIBRARIES]


def _command(pid: int) -> tuple[str, ...]:
    words = (_read(f"/proc/{pid}/cmdline") or b"").rstrip(b"\0").split(b"\0")[:MOST_ARGUMENTS]
    return tuple(word.decode("utf-8", "replace")[:MOST_ARGUMENT] for word in words if word)


def _read(path: str) -> bytes | None:
    """None if that may not be read; empty if the process is gone."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES)
    except PermissionError:
        return None
    except OSError:  # gone
        return b""


COLLECTOR = Collector("mappings", destructive=False, seconds=SECONDS, available=lambda: None, collect=collect)
