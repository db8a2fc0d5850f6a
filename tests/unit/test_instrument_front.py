"""What a worker is started with: the shim first where there can be one, and its own way in any case."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.shared_objects import DRIVER, build, build_shim
from watchdogd.instrument import front
from watchdogd.instrument.driver import NAME
from watchdogd.instrument.words import Request, Shim

ASK = f"import ctypes; library = ctypes.CDLL({NAME!r}); print(library.cuInit(), library.cuOld())"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(folder / "real", NAME, DRIVER)
    build_shim(folder)
    return folder


@pytest.fixture
def request_(built: Path, tmp_path: Path) -> Request:
    return Request((str(tmp_path),), str(built / "libcuda_shim.so"))


def test_a_program_gets_the_shim_and_through_it_its_own_driver(built: Path, request_: Request) -> None:
    own = {"LD_LIBRARY_PATH": f"/nowhere:{built}/real"}
    shim, environment = front.stand(request_, own, "/", None)
    assert shim == Shim(shim.folder, f"{built}/real/{NAME}", None)
    assert environment["LD_LIBRARY_PATH"] == f"{shim.folder}:/nowhere:{built}/real"
    ran = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["111", "12"], ran.stderr


@pytest.mark.parametrize("own", [{}, {"LD_LIBRARY_PATH": ""}])
def test_no_empty_entry_is_introduced(own: dict[str, str]) -> None:
    assert front.with_folder(own, "/shim")["LD_LIBRARY_PATH"] == "/shim"


def test_an_upgraded_driver_gets_another_folder(request_: Request, tmp_path: Path) -> None:
    library = build(tmp_path / "upgraded", NAME, DRIVER)
    own = {"LD_LIBRARY_PATH": str(library.parent)}
    before = front.stand(request_, own, "/", None)[0].folder
    assert front.stand(request_, own, "/", None)[0].folder == before
    build(tmp_path / "new", NAME, DRIVER + "int cuNew(void) { return 13; }").replace(library)
    shim, environment = front.stand(request_, own, "/", None)
    assert shim.folder != before
    ask = f"import ctypes; print(ctypes.CDLL({NAME!r}).cuNew())"
    ran = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["200"], ran.stderr


@pytest.mark.parametrize("missing", ["driver", "shim", "place"])
def test_a_worker_is_not_held_up_by_what_is_missing(
    missing: str, request_: Request, built: Path, tmp_path: Path
) -> None:
    own = {"LD_LIBRARY_PATH": f"{built}/real", "X": "1"}
    if missing == "driver":
        own["WATCHDOGD_CUDA_DRIVER"] = "/nowhere"
    elif missing == "shim":
        request_ = request_._replace(shim=str(tmp_path / "none"))
    else:
        request_ = request_._replace(roots=("/proc",))
    shim, environment = front.stand(request_, own, "/", None)
    assert environment == own
    assert shim.folder is None
    assert shim.problem


def test_a_shim_of_another_kind_is_a_reason_and_no_crash(request_: Request, built: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(os.urandom(100))
    shim, _ = front.stand(
        request_._replace(shim=str(tmp_path / "broken.so")), {"LD_LIBRARY_PATH": f"{built}/real"}, "/", None
    )
    assert shim.problem is not None
    assert "no ELF file" in shim.problem


# --- NVTX ---


@pytest.fixture
def telling(request_: Request, tmp_path: Path) -> Request:
    (tmp_path / "libtold.so").write_bytes(b"what NVTX loads")
    return request_._replace(nvtx=str(tmp_path / "libtold.so"))


def test_what_tells_of_ranges_lies_beside_the_shim_and_is_named_to_nvtx(built: Path, telling: Request) -> None:
    own = {"LD_LIBRARY_PATH": f"{built}/real"}
    shim, environment = front.stand(telling, own, "/", None)
    assert environment["NVTX_INJECTION64_PATH"] == f"{shim.folder}/libtold.so"
    assert Path(environment["NVTX_INJECTION64_PATH"]).read_bytes() == b"what NVTX loads"
    assert sorted(os.listdir(str(shim.folder))) == ["libcuda.so", NAME, "libtold.so"]


@pytest.mark.parametrize("nsys", ["/opt/nsight/libToolsInjection64.so", ""])
def test_a_profiler_that_is_in_the_place_stays_there(nsys: str, built: Path, telling: Request) -> None:
    own = {"LD_LIBRARY_PATH": f"{built}/real", "NVTX_INJECTION64_PATH": nsys}
    assert front.stand(telling, own, "/", None)[1]["NVTX_INJECTION64_PATH"] == nsys


def test_nobody_is_told_of_ranges_who_did_not_ask(built: Path, request_: Request) -> None:
    shim, environment = front.stand(request_, {"LD_LIBRARY_PATH": f"{built}/real"}, "/", None)
    assert "NVTX_INJECTION64_PATH" not in environment
    assert sorted(os.listdir(str(shim.folder))) == ["libcuda.so", NAME]


def test_an_upgrade_of_what_tells_of_ranges_gets_another_folder(built: Path, telling: Request, tmp_path: Path) -> None:
    own = {"LD_LIBRARY_PATH": f"{built}/real"}
    before = front.stand(telling, own, "/", None)[0].folder
    assert front.stand(telling, own, "/", None)[0].folder == before
    (tmp_path / "libtold.so").write_bytes(b"another of them")
    assert front.stand(telling, own, "/", None)[0].folder != before


def test_where_no_shim_can_be_nvtx_is_told_of_nothing(telling: Request) -> None:
    own = {"WATCHDOGD_CUDA_DRIVER": "/nowhere"}
    assert front.stand(telling, own, "/", None)[1] == own
