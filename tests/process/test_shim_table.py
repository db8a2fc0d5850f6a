"""The shim's table of functions against NVIDIA's own header: every form, every argument, and nothing forgotten."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.worker_process import ROOT
from watchdogd.cuda_results import STICKY_ERRORS

SHIM = ROOT / "watchdogd" / "native" / "shim"
LATER = {"cuLaunchHostFunc_v2": "CUstream, CUhostFn, void *, unsigned"}  # than the header compared with

# What has no row, and why.
_GRAPHS = "builds a graph on the host"
_ATTRIBUTES = "reads or sets what the driver keeps on the host"
_ADDRESSES_OF_32_BITS = "CUDA before 3.2: no program of 64 bits can use it"
LEFT_OUT = {
    r"cuGetProcAddress(_v2)?": "wrapped by hand, in proc_address.c",
    r"cu(GetError|DriverGet|CtxGet|GetExportTable|Device(Get|Can|Compute|Total|Set)).*": _ATTRIBUTES,
    r"cuDevice(PrimaryCtxGetState|(Unr|R)egisterAsyncNotification)": _ATTRIBUTES,
    r"cuCtx(SetCacheConfig|SetSharedMemConfig|ResetPersistingL2Cache|FromGreenCtx)": _ATTRIBUTES,
    r"cu(GreenCtx|Stream|Func|Pointer|MemPool|Array|Array3D|MipmappedArray)Get.*": _ATTRIBUTES,
    r"cu(Multicast|Library|Kernel|Module)Get.*": _ATTRIBUTES,
    r"cuMem(Get|Range|HostGet|SetMemPool|RetainAllocationHandle|Pool(Export|Get)).*": _ATTRIBUTES,
    r"cu(Kernel|Func|Pointer|Stream)Set.*|cuFuncIsLoaded|cuStreamCopyAttributes.*": _ATTRIBUTES,
    r"cu(Mipmapped)?ArrayGet.*|cuDev(Sm)?Resource.*|cuIpc(Get|OpenEvent).*": _ATTRIBUTES,
    r"cuEventElapsedTime.*|cuOccupancy.*|cuTensorMap.*|cuFlushGPUDirectRDMAWrites": _ATTRIBUTES,
    r"cu(Tex|Surf)(Ref|Object).*|cuParam.*|cuGraphics(SubResource|Resource|Unregister).*": _ATTRIBUTES,
    r"cuGraph(Add|Node|Get|Clone|Create|Conditional|Debug|DestroyNode|Retain|Release|Remove|Kernel).*": _GRAPHS,
    r"cuGraph(Mem(cpy|set|Alloc|Free)|Host|ChildGraph|Event|External|BatchMemOp)\w*Node.*": _GRAPHS,
    r"cuGraphExec(\w*Node\w*|GetFlags)": _GRAPHS,
    r"cuUserObject.*|cuThreadExchangeStreamCaptureMode|cu(Import|Destroy)ExternalSemaphore": _ATTRIBUTES,
    r"cuStream(Begin|End|Is|Update|Get)Capt.*|cuStream(Begin|Update|Is|End).*": "records; nothing is done",
    r"cu(Coredump|Logs|Profiler).*": "tools",
    r"cuCheckpoint.*": "acts on other processes, for tools",
    r"cuMem(Alloc|AllocHost|AllocPitch|Free|set\w+|cpy(2D|3D|[HDA]to)\w*)": _ADDRESSES_OF_32_BITS,
    r"cu(Array|Array3D)Create": _ADDRESSES_OF_32_BITS,
    r"cu(Module|Library)GetGlobal|cuModule(GetTexRef|GetSurfRef)": _ADDRESSES_OF_32_BITS,
}  # fmt: skip


@pytest.fixture(scope="module")
def include() -> Path:
    """Of the dev dependency nvidia-cuda-runtime."""
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path.parent for folder in folders for path in Path(folder).glob("cu*/include/cuda.h")]
    assert found, "no cuda.h: pip install nvidia-cuda-runtime"
    return found[0]


def preprocess(source: str, *flags: str) -> str:
    command = ["gcc", "-E", "-P", "-x", "c", *flags, "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True, timeout=60).stdout


def rows() -> dict[str, tuple[int, str, str, str]]:
    """Version, operation, effect and parameters by symbol."""
    source = (
        "#define PER_THREAD_VERSION(version) ((version) < 7000 ? 7000 : (version))\n"
        "#define ROW(symbol, version, operation, effect, subject, parameters, arguments)"
        ' @ #symbol | version | #operation | #effect | parameters\n#include "functions.def"\n'
    )
    text = preprocess(source, f"-I{SHIM}").replace("\n", " ")
    found = {}
    for part in text.split("@")[1:]:
        symbol, version, operation, effect, parameters = (word.strip().strip('"') for word in part.split("|"))
        number = [int(digits) for digits in re.findall(r"\d+", version)]
        assert symbol not in found, symbol
        found[symbol] = max(number), operation, effect, parameters
    return found


def compiles(source: str, include: Path) -> None:
    """For every machine that there is a compiler for."""
    for compiler in filter(shutil.which, ("gcc", "aarch64-linux-gnu-gcc")):
        command = [compiler, "-std=c11", "-fsyntax-only", f"-I{include}", f"-I{SHIM}", "-x", "c", "-"]
        result = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr[:4000]


def test_every_row_has_the_header_s_own_signature(include: Path) -> None:
    later = "".join(f"CUresult {name}({types}); CUresult {name}_ptsz({types});\n" for name, types in LATER.items())
    compiles(
        f"#define __CUDA_API_VERSION_INTERNAL 1\n#include <cuda.h>\n{later}"
        "#define ROW(symbol, version, operation, effect, subject, parameters, arguments)"
        " _Static_assert(__builtin_types_compatible_p(__typeof__(symbol), CUresult parameters), #symbol);\n"
        '#include "functions.def"\n',
        include,
    )


def test_every_row_is_of_the_version_that_cuGetProcAddress_asks_by(include: Path) -> None:
    known = (include / "cudaTypedefs.h").read_text()
    checks = []
    for symbol, (version, _, _, parameters) in rows().items():
        match = re.fullmatch(r"(\w+?)(?:_v\d)?(_pt[sd][sz])?", symbol)
        assert match is not None
        if symbol.removesuffix("_ptsz") in LATER:
            continue
        name = f"PFN_{match[1]}_v{version}{match[2] or ''}"
        assert f"{name})" in known, name
        checks.append(f'_Static_assert(__builtin_types_compatible_p({name}, CUresult (*){parameters}), "{symbol}");\n')
    compiles("#define __CUDA_API_VERSION_INTERNAL 1\n#include <cudaTypedefs.h>\n" + "".join(checks), include)


def test_the_forms_of_a_name_stand_in_the_order_of_their_versions() -> None:
    """By which the shim tells the form that a driver gave for want of a later one."""
    newest: dict[str, int] = {}
    for symbol, (version, *_) in rows().items():
        form = re.sub(r"_v\d(?=_|$)", "", symbol)
        assert newest.get(form, 0) < version, symbol
        newest[form] = version


def test_what_is_passed_by_value_has_the_header_s_size(include: Path, tmp_path: Path) -> None:
    text = " ".join(parameters for *_, parameters in rows().values())
    names = sorted(set(re.findall(r"\b(CU\w+|cuuint\w+) \w", text)))
    assert {"CUmemLocation", "CUipcMemHandle", "CUdeviceptr", "CUstream"} <= set(names)
    printed = "".join(
        f'printf("_Static_assert(sizeof({name}) == %zu && _Alignof({name}) == %zu, \\"{name}\\");\\n",'
        f" sizeof({name}), _Alignof({name}));\n"
        for name in names
    )
    program = (
        f'#include "types.h"\n#include <stdio.h>\nint main(void) {{\n{printed}'
        'printf("_Static_assert(offsetof(CUlaunchConfig, hStream) == %zu, \\"stream\\");\\n",'
        " offsetof(CUlaunchConfig, stream)); return 0; }"
    )
    binary = tmp_path / "sizes"
    build = ["gcc", f"-I{SHIM}", "-x", "c", "-o", str(binary), "-"]
    subprocess.run(build, input=program, text=True, check=True, timeout=60)
    checks = subprocess.run([binary], capture_output=True, text=True, check=True, timeout=60).stdout
    assert checks.count("_Static_assert") == len(names) + 1
    compiles(f"#include <stddef.h>\n#include <cuda.h>\n{checks}", include)


def test_every_function_of_the_header_has_a_row_or_a_reason(include: Path) -> None:
    text = preprocess("#define __CUDA_API_VERSION_INTERNAL 1\n#include <cuda.h>\n", f"-I{include}")
    declared = set(re.findall(r"CUresult\s+(cu\w+)\s*\(", text))
    assert len(declared) > 600
    wrapped = set(rows())
    assert wrapped - declared == {name + suffix for name in LATER for suffix in ("", "_ptsz")}
    forgotten = {name for name in declared - wrapped if not any(re.fullmatch(one, name) for one in LEFT_OUT)}
    assert not forgotten
    assert [one for one in LEFT_OUT if not any(re.fullmatch(one, name) for name in declared - wrapped)] == []


def test_the_page_on_the_shim_says_what_each_function_it_names_is_stamped_as() -> None:
    page = (ROOT / "docs" / "DRIVER.md").read_text().partition("<!-- operations")[2].partition("<!-- end")[0]
    stamped: dict[str, set[str]] = {}
    for symbol, (_, operation, *_) in rows().items():
        stamped.setdefault(re.sub(r"(_v\d)?(_pt[sd][sz])?$", "", symbol), set()).add(operation.lower())
    told = dict(re.findall(r"^\| `?(\w+)`? \| (.*)", page, re.M))
    assert set.union(*stamped.values()) <= told.keys()
    named = [(operation, name) for operation in told for name in re.findall(r"`(cu\w+)`", told[operation])]
    assert len(named) > 40
    assert [(operation, name) for operation, name in named if stamped[name] != {operation}] == []


def test_what_waits_says_for_what_and_what_is_queued_says_where() -> None:
    for symbol, (_, operation, effect, parameters) in rows().items():
        if operation in ("SYNC", "EVENT"):
            assert effect.startswith("AWAITS"), symbol
        if re.search(r"CUstream h?[sS]tream\b", parameters):
            expected = ("QUEUES", "CALLS_BACK", "IN_STREAM", "RECORDS", "AWAITS_STREAM", "ASKS_STREAM", "ENDS_STREAM")
            assert effect in expected, symbol
        assert (effect == "CALLS_BACK") == bool(re.search(r"CUhostFn|CUstreamCallback", parameters)), symbol
        assert (effect == "RECORDS") == bool(re.match(r"cu(Event|Ctx|GreenCtx)Record", symbol)), symbol
        if effect == "COMPLETES":
            assert operation == "COPY" and "Async" not in symbol, symbol


def test_the_shim_s_sticky_errors_are_the_supervisor_s() -> None:
    source = (SHIM / "stamp.c").read_text()
    body = source[source.index("is_sticky") : source.index("default:")]
    assert {int(code) for code in re.findall(r"case (\d+):", body)} == set(STICKY_ERRORS)
