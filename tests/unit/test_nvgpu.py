"""Where the nvgpu ``load`` file is found, and what is made of its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from watchdogd.model import LoadSample
from watchdogd.observe.sources.child import Unavailable
from watchdogd.observe.sources.nvgpu import find, reader


def devfreq_tree(root: Path, device: str, node_name: bytes, load: str | None) -> Path:
    """A sysfs with one devfreq device behind symbolic links, as the kernel lays it out. Returns its load file."""
    directory = root / "devices/platform/bus@0" / device
    (directory / "of_node").mkdir(parents=True)
    (directory / "of_node/name").write_bytes(node_name)
    if load is not None:
        (directory / "load").write_text(load)
    (directory / "devfreq" / device).mkdir(parents=True)
    (directory / "devfreq" / device / "device").symlink_to(directory)
    (root / "class/devfreq").mkdir(parents=True, exist_ok=True)
    (root / "class/devfreq" / device).symlink_to(directory / "devfreq" / device)
    return directory / "load"


def linked_tree(root: Path, link: str) -> Path:
    load = root / "devices/17000000.ga10b/load"
    load.parent.mkdir(parents=True)
    load.write_text("250\n")
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(load)
    return load


@pytest.mark.parametrize(
    ("device", "node_name"),
    [("17000000.gpu", b"gpu\0"), ("17000000.ga10b", b"ga10b\0"), ("17000000.gv11b", b"gv11b\n")],
)
def test_the_gpu_is_found_by_its_device_tree_name(tmp_path: Path, device: str, node_name: bytes) -> None:
    devfreq_tree(tmp_path, "15340000.vic", b"vic\0", "999")
    load = devfreq_tree(tmp_path, device, node_name, "371\n")
    assert find(str(tmp_path)) == str(load)


def test_another_engine_s_load_is_not_taken_for_the_gpu_s(tmp_path: Path) -> None:
    devfreq_tree(tmp_path, "15340000.vic", b"vic\0", "999")
    with pytest.raises(Unavailable):
        find(str(tmp_path))


@pytest.mark.parametrize("link", ["devices/gpu.0/load", "devices/platform/gpu.0/load"])
def test_without_devfreq_the_older_links_are_followed(tmp_path: Path, link: str) -> None:
    load = linked_tree(tmp_path, link)
    assert find(str(tmp_path)) == str(load)


def test_a_gpu_without_a_load_file_has_no_source(tmp_path: Path) -> None:
    devfreq_tree(tmp_path, "gpu-gpc-0", b"gpu\0", None)  # Thor
    with pytest.raises(Unavailable, match=r"NVML \(Thor\)"):
        find(str(tmp_path))


@pytest.mark.parametrize(("text", "ratio"), [("0\n", 0.0), ("371\n", 0.371), ("1000\n", 1.0)])
def test_the_file_counts_in_per_mille(tmp_path: Path, text: str, ratio: float) -> None:
    load = devfreq_tree(tmp_path, "17000000.gpu", b"gpu\0", text)
    assert reader(str(load))() == [LoadSample("gpu0", ratio, "17000000.gpu")]


def test_each_read_sees_the_present_load(tmp_path: Path) -> None:
    load = devfreq_tree(tmp_path, "17000000.gpu", b"gpu\0", "12\n")
    read = reader(str(load))
    (first,) = read()
    load.write_text("34\n")
    (second,) = read()
    assert (first.load_ratio, second.load_ratio) == (0.012, 0.034)


@pytest.mark.parametrize("text", ["", "-1", "1001", "nan", "3.5", "\u0663", "9" * 5000])
def test_a_text_that_is_no_load_is_refused(tmp_path: Path, text: str) -> None:
    load = devfreq_tree(tmp_path, "17000000.gpu", b"gpu\0", text)
    with pytest.raises(Unavailable, match="load"):
        reader(str(load))()


def test_a_file_that_cannot_be_read_ends_the_source(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        reader(str(tmp_path / "load"))()
