"""The lost context's story on the simulated driver: as reported without guards; with them, no answer is wrong."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.demo import lost_context
from tests.demo.lost_context import GUARDED, PLAIN, Facts
from tests.demo.lost_context_requests import EARLIER, LEFTOVERS, LOST_BEFORE, RIGHT, WRONG, judged
from tests.demo.story import ROOT, NotObserved
from tests.simulator.control import SimulatedDevice

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")


def test_the_story_is_told_from_the_command_line() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tests.demo", "--story", "lost-context"], cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")
    assert re.search(r"handler-3: cuCtxGetCurrent 0x0 before, 0x0 after: CUDA_ERROR_INVALID_CONTEXT\n", told.stdout)
    assert re.search(r"handler-4: .* after: CUDA_ERROR_CONTEXT_IS_DESTROYED\n", told.stdout)
    assert re.search(r"handler-2: .* after: an earlier request's answer, 2 4 .*, expected 18 20 ", told.stdout)
    lost = (
        r"ContextLost: cuMemcpyHtoDAsync: expected context 0x\w+ of thread 'handler-1' \(tid \d+\),"
        r" found (?:context 0x\w+|no context) in thread 'handler-(\d)' \(tid \d+\);"
    )
    assert re.findall(lost, told.stdout) == ["2", "3", "4"]
    assert "UnwrittenError: boxes: elements 3 to 7 of 8 were never written\n" in told.stdout
    rows = {line[:33].strip(): line[33:].split() for line in told.stdout.splitlines()}
    assert (rows["CUDA_ERROR_INVALID_CONTEXT"], rows["ContextLost"]) == (["20", "0", "0"], ["0", "60", "0"])
    assert (rows["leftovers of an earlier request"], rows["UnwrittenError"]) == (["10", "0"], ["0", "10"])
    (pause,) = re.findall(r"retried +([\d.]+) ms", told.stdout)
    assert 50 <= float(pause) < 500
    assert told.stdout.endswith("All of this was observed.\n")


WITHOUT = {
    "the owner of a context": (
        "made = guarded.cuda.Context; guarded.cuda.Context = lambda owner: made()",
        "guarded, handler-2: ContextLost",
    ),
    "poison": (
        "guarded.Poison.check = lambda self: None; guarded.Poison.fill = lambda self, stream: None",
        "leftovers named",
    ),
    "rebuilding": ("guarded.Rebuilt.run = lambda self, use: use(self._built)", "rebuilt, every answer right"),
    "another try": (
        "guarded.retried = lambda gpu, infer, asked, timeout: gpu.submit(infer, asked).result(timeout)",
        "retried, every answer right",
    ),
}


@pytest.mark.parametrize("without", WITHOUT)
def test_the_story_fails_where_a_guard_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    change, missing = WITHOUT[without]
    program = f"from tests.demo import lost_context_guarded as guarded\n{change}\nguarded.main()\n"
    (tmp_path / "unguarded_again.py").write_text(program, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(NotObserved, match=f"^{missing}.* was not observed"):
        lost_context.play(tmp_path, print, guarded="unguarded_again")


def test_the_story_fails_where_nothing_goes_wrong_without_guards(tmp_path: Path) -> None:
    with pytest.raises(NotObserved, match="mixed was not observed: the service tells of left, misused, pinned"):
        lost_context.play(tmp_path, print, plain=GUARDED)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Facts, Facts]:
    with SimulatedDevice(tmp_path_factory.mktemp("device") / "device") as device:
        return lost_context.served(device, PLAIN), lost_context.served(device, GUARDED)


def told(plain: Facts, guarded: Facts) -> list[str]:
    return [*lost_context.happened(plain), *lost_context.caught(guarded), *lost_context.report(plain, guarded)]


def test_what_the_services_tell_is_the_story(facts: tuple[Facts, Facts]) -> None:
    assert told(*facts)


def came(**changed: dict[str, int]) -> Callable[[Facts], None]:
    def change(told: Facts) -> None:
        for name, counts in changed.items():
            told[name] = told[name]._replace(came=counts)

    return change


def unsaid(name: str, handler: str) -> Callable[[Facts], None]:
    def change(told: Facts) -> None:
        said = {
            who: words.replace(f"'{handler}'", "'?'") for who, words in told[name].said.items() if handler not in who
        }
        told[name] = told[name]._replace(said=said)

    return change


def too_soon(told: Facts) -> None:
    early = [1.0 if number == LOST_BEFORE[-1] else took for number, took in enumerate(told["retried"].milliseconds)]
    told["retried"] = told["retried"]._replace(milliseconds=early)


@pytest.mark.parametrize(
    ("which", "change", "missing"),
    [
        (0, unsaid("mixed", "handler-2"), "unguarded, handler-2: an earlier request's answer"),
        (0, unsaid("mixed", "handler-3"), "unguarded, handler-3: CUDA_ERROR_INVALID_CONTEXT"),
        (0, unsaid("mixed", "handler-4"), "unguarded, handler-4: CUDA_ERROR_CONTEXT_IS_DESTROYED"),
        (0, came(reused={RIGHT: 20}), "unguarded, leftovers"),
        (0, came(lost={RIGHT: 20}), "a loss"),
        (1, unsaid("misused", "handler-1"), "guarded, handler-2: ContextLost: expected context"),
        (1, unsaid("misused", "handler-3"), "guarded, handler-3: ContextLost: expected context"),
        (1, came(misused={RIGHT: 20, "ContextLost": 59, EARLIER: 1}), "each misuse caught"),
        (1, came(pinned={RIGHT: 79, "ContextLost": 1}), "pinned, every answer right"),
        (1, too_soon, "a retry after its pause"),
    ],
)
def test_the_story_fails_without_any_one_of_its_parts(
    facts: tuple[Facts, Facts], which: int, change: Callable[[Facts], None], missing: str
) -> None:
    altered = copy.deepcopy(facts)
    change(altered[which])
    with pytest.raises(NotObserved, match=re.escape(missing)):
        told(*altered)


def test_an_answer_is_right_only_as_a_whole() -> None:
    earlier = [[2.0, 4.0, 6.0, 8.0]]
    assert judged([1.0, 2.0], [1.0, 2.0], earlier) == RIGHT
    assert judged([2.0, 4.0, 6.0, 8.0], [1.0, 2.0], earlier) == EARLIER
    assert judged([1.0, 2.0, 6.0, 8.0], [1.0, 2.0], earlier) == LEFTOVERS
    assert judged([1.0, 2.0, 6.0, 9.0], [1.0, 2.0], earlier) == WRONG
    assert judged([1.0, 3.0], [1.0, 2.0], earlier) == WRONG
