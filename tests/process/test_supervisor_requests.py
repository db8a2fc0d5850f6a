"""What a worker had begun when it ended: told, given back once to its successor, or counted as dropped."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.helpers.running import ROOT, Supervised, gone, wait_until, worker

DEADLINES = {"startup": "20s", "first_step": "300ms", "step": "300ms"}
RESTART = {"backoff": "10ms", "backoff_max": "10ms", "budget": 3}

# It takes numbered work: first what is given back, then what is new. What it does with each is in a file of its own.
TAKES_NUMBERS = """
def done(request):
    with open(HERE / 'done', 'a') as file: file.write(f'{INCARNATION}:{request} ')
worker.ready()
back = []
for request in worker.redelivered():
    with worker.step(request=request):
        back.append(request)
        tell(f'back.{INCARNATION}', back)
        if (HERE / 'poison').read_text() == str(request): hang()
        done(request)
tell(f'back.{INCARNATION}', back)
"""
# Three are in flight, of which one is done; 16 was done before.
HANGS_WITH_17_AND_18 = (
    TAKES_NUMBERS
    + """
if INCARNATION == 1:
    with worker.step(request=16): done(16)
    seventeen = worker.begin_step(request=17)
    done_while_others_fly, eighteen = worker.begin_step(request=19), worker.begin_step(request=18)
    worker.end_step(done_while_others_fly)
    hang()
hang()  # in no step
"""
)


def numbers(body: str = HANGS_WITH_17_AND_18, *, redeliver: bool = True, **keys: Any) -> dict[str, Any]:
    return worker(body, deadlines=DEADLINES, restart=RESTART, redeliver=redeliver, **keys)


def supervised(body: dict[str, Any], poison: str = "none", **tables: Any) -> Supervised:
    running = Supervised({"a": body}, **tables)
    (running.directory / "poison").write_text(poison)
    return running


def ending(running: Supervised, incarnation: int) -> dict[str, Any]:
    told = running.wait_event("gone", "a", incarnation=incarnation)
    return {key: told[key] for key in ("in_flight", "requests", "to_redeliver", "dropped")}


def counts(running: Supervised) -> tuple[int, int]:
    """Dropped and redelivered."""
    body = running.worker("a")
    return body["steps_dropped"], body["steps_redelivered"]


def given_back(running: Supervised, incarnation: int) -> str:
    return running.wait_file(f"back.{incarnation}")


def test_what_a_killed_worker_had_begun_is_given_back_to_its_successor_once() -> None:
    with supervised(numbers()) as running:
        assert ending(running, 1) == {"in_flight": 2, "requests": [17, 18], "to_redeliver": 2, "dropped": 0}
        assert running.wait_event("verdict", "a")["verdict"] == "step"
        running.wait_phase("a", "running", 2)
        wait_until(lambda: given_back(running, 2) == "[17, 18]", what=running.log)
        assert counts(running) == (0, 2)
        running.ask("restart", "a")
        assert ending(running, 2) == {"in_flight": 0, "requests": [], "to_redeliver": 0, "dropped": 0}
        running.wait_phase("a", "running", 3)
        assert given_back(running, 3) == "[]"
        assert (running.directory / "done").read_text() == "1:16 2:17 2:18 "
        assert counts(running) == (0, 2)


def test_by_default_it_is_counted_as_dropped() -> None:
    with supervised(numbers(redeliver=False)) as running:
        assert ending(running, 1) == {"in_flight": 2, "requests": [17, 18], "to_redeliver": 0, "dropped": 2}
        running.wait_phase("a", "running", 2)
        assert given_back(running, 2) == "[]"
        assert counts(running) == (2, 0)


def test_a_request_that_hangs_its_successor_too_is_dropped_and_the_others_are_given_back() -> None:
    with supervised(numbers(), poison="17") as running:
        assert ending(running, 1)["to_redeliver"] == 2
        assert ending(running, 2) == {"in_flight": 1, "requests": [17], "to_redeliver": 1, "dropped": 1}
        running.wait_phase("a", "running", 3)
        wait_until(lambda: given_back(running, 3) == "[18]", what=running.log)
        assert (running.directory / "done").read_text() == "1:16 3:18 "
        assert counts(running) == (1, 2)
        assert len(running.events("verdict", "a")) == 2


def test_a_worker_that_ends_with_nothing_in_flight_leaves_nothing() -> None:
    body = "worker.ready()\nfor number in range(9):\n    with worker.step(request=number): pass\nhang()"
    with supervised(numbers(body)) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        wait_until(lambda: running.view("a")["steps"] >= 9)
        os.kill(pid, signal.SIGKILL)
        assert ending(running, 1) == {"in_flight": 0, "requests": [], "to_redeliver": 0, "dropped": 0}
        running.wait_phase("a", "running", 2)
        assert counts(running) == (0, 0)


def test_steps_without_a_number_are_counted_as_dropped() -> None:
    body = "worker.ready()\nif INCARNATION == 1:\n    worker.begin_step(request=5); worker.begin_step(); hang()\nhang()"
    with supervised(numbers(body)) as running:
        assert ending(running, 1) == {"in_flight": 2, "requests": [5], "to_redeliver": 1, "dropped": 1}
        running.wait_phase("a", "running", 2)
        assert counts(running) == (1, 1)


def test_what_is_never_asked_for_is_dropped_at_the_end_of_a_successor_that_could_have() -> None:
    body = "worker.ready()\nif INCARNATION == 1:\n    worker.begin_step(request=5); hang()\nhang()"
    with supervised(numbers(body)) as running:
        running.wait_phase("a", "running", 2)
        running.ask("restart", "a")
        assert ending(running, 2) == {"in_flight": 0, "requests": [], "to_redeliver": 0, "dropped": 1}


def test_a_successor_that_ends_before_it_is_ready_leaves_what_it_was_given_to_the_next_one() -> None:
    with supervised(numbers("if INCARNATION == 2: sys.exit(1)\n" + HANGS_WITH_17_AND_18)) as running:
        assert ending(running, 2) == {"in_flight": 0, "requests": [], "to_redeliver": 2, "dropped": 0}
        running.wait_phase("a", "running", 3)
        wait_until(lambda: given_back(running, 3) == "[17, 18]", what=running.log)
        assert counts(running) == (0, 2)


def test_a_crash_and_a_stop_leave_what_was_in_flight_as_a_kill_does() -> None:
    body = TAKES_NUMBERS + (
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "if INCARNATION == 1:\n    worker.begin_step(request=1); os.abort()\n"
        "if INCARNATION == 2:\n    worker.begin_step(request=2); tell('in')\n    wait_for('never')\n"
        "hang()"
    )
    with Supervised({"a": worker(body, deadlines={"startup": "20s"}, restart=RESTART, redeliver=True)}) as running:
        (running.directory / "poison").write_text("none")
        assert ending(running, 1)["requests"] == [1]
        running.wait_file("in")
        running.ask("stop", "a")
        assert ending(running, 2)["requests"] == [2]
        running.wait_phase("a", "stopped")
        running.ask("start", "a")
        wait_until(lambda: given_back(running, 3) == "[2]", what=running.log)


def test_what_was_in_flight_outlasts_a_quarantine() -> None:
    body = "if 1 < INCARNATION < 6 and not (HERE / 'mended').exists(): sys.exit(1)\n" + HANGS_WITH_17_AND_18
    with supervised(numbers(body)) as running:
        last = running.wait_phase("a", "quarantined")["incarnation"]
        running.touch("mended")
        running.ask("reset", "a")
        wait_until(lambda: given_back(running, last + 1) == "[17, 18]", what=running.log)
        assert counts(running) == (0, 2)


def test_a_heartbeat_that_cannot_be_made_loses_nothing() -> None:
    with supervised(numbers()) as running:
        for incarnation in (2, 3):
            (running.runtime / "heartbeats" / f"a.{incarnation}").touch()  # nothing is made over another one
        running.wait_phase("a", "running", 4)
        assert [event["exit"] for event in running.events("gone", "a")][1:] == ["exited with status 1"] * 2
        wait_until(lambda: given_back(running, 4) == "[17, 18]", what=running.log)
        assert counts(running) == (0, 2)


# --- the supervisor ends, too ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["keep", "kill"])
def test_what_was_in_flight_when_worker_and_supervisor_were_killed_is_given_back(keep: str) -> None:
    body = TAKES_NUMBERS + "if INCARNATION == 1:\n    worker.begin_step(request=17); tell('in'); hang()\nhang()"
    settings = worker(body, deadlines={"startup": "20s"}, restart=RESTART, redeliver=True, on_supervisor_exit=keep)
    with supervised(settings) as running:
        pid = running.wait_phase("a", "running", 1)["pid"]
        running.wait_file("in")
        running.stop(signal.SIGKILL)
        if keep == "keep":
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone(pid))
        running.start()
        assert ending(running, 1) == {"in_flight": 1, "requests": [17], "to_redeliver": 1, "dropped": 0}
        wait_until(lambda: given_back(running, 2) == "[17]", what=running.log)


@pytest.mark.parametrize("again", ["reload", "kill"])
def test_what_waits_in_quarantine_outlasts_supervisors(again: str) -> None:
    body = "if 1 < INCARNATION < 6 and not (HERE / 'mended').exists(): sys.exit(1)\n" + HANGS_WITH_17_AND_18
    with supervised(numbers(body)) as running:
        last = running.wait_phase("a", "quarantined")["incarnation"]
        for _ in range(2):
            if again == "reload":
                running.reload()
            else:
                running.stop(signal.SIGKILL)
                running.start()
        assert running.phase("a") == "quarantined"
        running.touch("mended")
        running.ask("reset", "a")
        wait_until(lambda: given_back(running, last + 1) == "[17, 18]", what=running.log)
        assert counts(running) == (0, 2)


def test_a_start_that_was_cut_short_together_with_its_supervisor_loses_nothing() -> None:
    body = "if 1 < INCARNATION < 6 and not (HERE / 'mended').exists(): sys.exit(1)\n" + HANGS_WITH_17_AND_18
    with supervised(numbers(body)) as running:
        last = running.wait_phase("a", "quarantined")["incarnation"]
        running.stop(signal.SIGKILL)
        for directory in ("births", "heartbeats"):  # as if it had only been ordered
            (running.runtime / directory / f"a.{last}").unlink()
        running.start()
        running.touch("mended")
        running.ask("reset", "a")
        wait_until(lambda: given_back(running, last + 1) == "[17, 18]", what=running.log)


def test_an_adopted_worker_that_is_killed_leaves_what_it_had_in_flight() -> None:
    body = TAKES_NUMBERS + "if INCARNATION == 1:\n    worker.begin_step(request=17)\n    wait_for('never')\nhang()"
    with supervised({**numbers(body), "deadlines": {"first_step": "900ms"}, "on_supervisor_exit": "keep"}) as running:
        running.wait_phase("a", "running", 1)
        running.stop(signal.SIGKILL)
        running.start()
        wait_until(lambda: given_back(running, 2) == "[17]", what=running.log)
        assert counts(running) == (0, 1)


def test_the_readmes_example_works_on_what_was_in_flight_before_what_is_new() -> None:
    section = (ROOT / "README.md").read_text().split("### Work in flight", 1)[1]
    example = section.split("```python\n", 1)[1].split("```", 1)[0]
    body = f"""
done = []
def fetch(number): return f'fetched {{number}}'
def infer(frame):
    done.append(frame); tell(f'done.{{INCARNATION}}', ' '.join(done))
    if frame == 'frame 3' and INCARNATION == 1: hang()
def frames():
    for number in range(4): yield INCARNATION * number, f'frame {{number}}'
    hang()
{example}"""
    with supervised(numbers(body)) as running:
        wait_until(lambda: running.wait_file("done.2").endswith("frame 3"), what=running.log)
        assert running.wait_file("done.2") == "fetched 3 frame 0 frame 1 frame 2 frame 3"
