"""The escalation with real processes: asked, consented, noted, done; and what must not happen."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker
from tests.process.conftest import Freezer
from watchdogd import exits
from watchdogd.act.escalating import FILE_NAME
from watchdogd.decide import escalation_memory

CRASHES = worker("worker.ready(); wait_for('go'); os._exit(3)", restart={"budget": 1})
REBOOT = ["sh", "-c", 'echo x >> "$HERE/rebooted"']


def ask(script: str, **keys: Any) -> dict[str, Any]:
    """What is asked leaves a line each time."""
    command = ["sh", "-c", f'env > "$HERE/env"; echo x >> "$HERE/asked"; {script}']
    return {"action": "reboot", "reboot_command": REBOOT, "ask": command, "consent_timeout": "5s", **keys}


def lines(supervised: Supervised, name: str) -> int:
    path = supervised.directory / name
    return len(path.read_text().splitlines()) if path.exists() else 0


def stage(supervised: Supervised) -> str:
    return str(supervised.snapshot()["supervisor"]["escalation"]["stage"])


def steps(supervised: Supervised) -> list[str]:
    return [event["step"] for event in supervised.events("escalation")]


def noted(supervised: Supervised) -> escalation_memory.Memory:
    return escalation_memory.decode((supervised.state / FILE_NAME).read_bytes())


def quarantine(supervised: Supervised) -> None:
    supervised.touch("go")
    supervised.wait_phase("a", "quarantined")


def test_a_required_worker_in_quarantine_reboots_after_consent_and_the_next_start_says_why() -> None:
    with Supervised({"a": CRASHES}, escalation=ask("exit 0")) as supervised:
        quarantine(supervised)
        wait_until(lambda: stage(supervised) == "done", what=supervised.log)
        assert lines(supervised, "rebooted") == 1
        assert steps(supervised) == ["cause", "ask", "consent", "action", "done"]
        wait_until(lambda: noted(supervised).outcome == "done")
        note = noted(supervised)
        assert (note.action, note.reason) == ("reboot", "a, which is required, is in quarantine")
        cause = supervised.events("escalation", "a")[0]
        assert (cause["cause"], cause["incident"]) == ("quarantined a", supervised.worker("a")["last_incident"]["id"])
        given = supervised.directory.joinpath("env").read_text().splitlines()
        assert {"WATCHDOGD_EVENT=escalation", "WATCHDOGD_CAUSE=quarantined a", "WATCHDOGD_STEP=ask"} <= set(given)

        supervised.stop()
        supervised.start()  # the fault is there again at once: there is no second reboot
        supervised.wait_phase("a", "quarantined")
        supervised.wait_event("escalation", step="refused")
        earlier = supervised.wait_event("escalation", step="earlier")
        assert earlier["reason"].startswith("reboot done at 20") and "a, which is required" in earlier["reason"]
        supervised.let_pass(0.5)
        assert (lines(supervised, "rebooted"), lines(supervised, "asked")) == (1, 1)
        told = supervised.snapshot()["supervisor"]["escalation"]
        assert (told["last"], told["refused"]) == (earlier["reason"], ["a, which is required, is in quarantine"])
        supervised.directory.joinpath("go").unlink()
        supervised.ask("reset", "a")
        wait_until(lambda: supervised.snapshot()["supervisor"]["escalation"]["refused"] == [])


def test_a_worker_that_is_not_required_may_be_in_quarantine() -> None:
    with Supervised({"a": {**CRASHES, "required": False}}, escalation=ask("exit 0")) as supervised:
        quarantine(supervised)
        supervised.let_pass(0.7)
        assert (steps(supervised), stage(supervised)) == ([], "idle")


def test_without_consent_nothing_is_done_and_a_reset_withdraws_it() -> None:
    with Supervised({"a": CRASHES}, escalation=ask("exit 1")) as supervised:
        quarantine(supervised)
        refused = supervised.wait_event("escalation", step="no consent")
        assert refused["reason"] == "exited with status 1; asked again in 10 s"
        supervised.let_pass(0.5)
        assert (lines(supervised, "rebooted"), lines(supervised, "asked"), stage(supervised)) == (0, 1, "backoff")
        assert not supervised.state.joinpath(FILE_NAME).exists()
        supervised.directory.joinpath("go").unlink()
        supervised.ask("reset", "a")
        supervised.wait_event("escalation", step="withdrawn")
        assert stage(supervised) == "idle"


def test_a_reboot_that_fails_is_not_tried_again_for_what_is_over_by_then() -> None:
    slow = ["sh", "-c", f'{REBOOT[2]}; until test -e "$HERE/fail"; do sleep 0.05; done; exit 1']
    with Supervised({"a": CRASHES}, escalation=ask("exit 0", reboot_command=slow)) as supervised:
        quarantine(supervised)
        supervised.wait_file("rebooted")
        supervised.directory.joinpath("go").unlink()
        supervised.ask("reset", "a")
        supervised.wait_phase("a", "running")
        supervised.touch("fail")
        supervised.wait_event("escalation", step="withdrawn")
        wait_until(lambda: stage(supervised) == "idle")
        assert steps(supervised)[-2:] == ["failed", "withdrawn"]
        supervised.let_pass(0.2)
        assert lines(supervised, "asked") == 1


def test_a_reboot_that_failed_is_tried_again_by_the_next_supervisor_which_says_so() -> None:
    failing = [*REBOOT[:2], f"{REBOOT[2]}; exit 1"]
    with Supervised({"a": CRASHES}, escalation=ask("exit 0", reboot_command=failing)) as supervised:
        quarantine(supervised)
        supervised.wait_event("escalation", step="failed")
        wait_until(lambda: noted(supervised).outcome == "failed")
        supervised.process.kill()
        supervised.process.wait()
        supervised.start()
        assert supervised.wait_event("escalation", step="earlier")["reason"].startswith("reboot failed at 20")
        wait_until(lambda: lines(supervised, "rebooted") == 2)


def test_a_program_that_does_not_answer_is_no_consent() -> None:
    with Supervised({"a": CRASHES}, escalation=ask("exec sleep 60", consent_timeout="400ms")) as supervised:
        quarantine(supervised)
        assert "did not end in time" in supervised.wait_event("escalation", step="no consent")["reason"]
        assert lines(supervised, "rebooted") == 0


def test_the_file_that_says_that_the_vehicle_stands_is_waited_for() -> None:
    with _with_file("30s") as supervised:
        quarantine(supervised)
        supervised.wait_event("escalation", step="await")
        supervised.let_pass(0.5)
        assert (stage(supervised), lines(supervised, "rebooted")) == ("awaiting", 0)
        supervised.touch("stands")
        wait_until(lambda: stage(supervised) == "done", what=supervised.log)
        assert supervised.events("escalation", step="consent")[0]["reason"] == "consent_file is there"
        assert lines(supervised, "rebooted") == 1


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_file_that_others_could_have_put_there_is_no_consent(mode: int) -> None:
    with _with_file("30s") as supervised:
        supervised.touch("stands")
        supervised.directory.chmod(mode)
        quarantine(supervised)
        refused = supervised.wait_event("escalation", step="no consent")
        assert refused["reason"].startswith("others can write the directory of consent_file")
        assert lines(supervised, "rebooted") == 0


def test_a_dry_run_records_what_would_be_done_and_does_nothing() -> None:
    with Supervised({"a": CRASHES}, escalation=ask("exit 0", dry_run=True)) as supervised:
        quarantine(supervised)
        wait_until(lambda: stage(supervised) == "done")
        assert steps(supervised) == ["cause", "ask", "action"]
        assert supervised.events("escalation", step="action")[0]["reason"] == "dry run, would be: reboot"
        assert supervised.snapshot()["supervisor"]["escalation"]["last"].startswith("reboot in a dry run at 20")
        supervised.let_pass(0.3)
        assert (lines(supervised, "asked"), lines(supervised, "rebooted")) == (0, 0)
        assert not supervised.state.joinpath(FILE_NAME).exists()


def test_service_fail_ends_the_workers_and_then_the_supervisor_with_its_own_status() -> None:
    failing = ask("exit 0", action="service-fail")
    with Supervised({"a": CRASHES, "b": worker("serve()")}, escalation=failing) as supervised:
        supervised.wait_phase("b", "running")
        supervised.touch("go")
        assert supervised.process.wait(15) == exits.SERVICE_FAIL
        assert supervised.leftovers() == []
        assert supervised.events("supervisor", change="ended")[-1]["reason"].startswith("escalation: a, which is")
        assert supervised.events("phase", "b", phase="stopped")


def test_so_many_hangs_on_one_accelerator_escalate() -> None:
    body = "serve_until('go')\nif INCARNATION <= 2:\n    with worker.call('sync'): hang()\nserve()"
    hangs = worker(body, deadlines={"sync": "100ms"}, accelerator="gpu0")
    with Supervised({"a": hangs}, escalation=ask("exit 0", hangs=2)) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        wait_until(lambda: stage(supervised) == "done", what=supervised.log)
        assert supervised.events("escalation", step="cause")[0]["cause"] == "hangs gpu0"
        assert lines(supervised, "rebooted") == 1


def test_hangs_that_called_for_it_still_do_after_the_supervisor_was_replaced() -> None:
    body = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
    hangs = worker(body, deadlines={"sync": "100ms"}, accelerator="gpu0", on_supervisor_exit="keep")
    slow = ask('until test -e "$HERE/yes"; do sleep 0.05; done', hangs=1, consent_timeout="30s")
    with Supervised({"a": hangs}, escalation=slow) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.touch("go")
        supervised.wait_event("escalation", step="ask")
        supervised.wait_phase("a", "running", 2)
        supervised.process.kill()
        supervised.process.wait()
        supervised.touch("yes")
        supervised.start()
        wait_until(lambda: stage(supervised) == "done", what=supervised.log)
        assert (lines(supervised, "asked"), lines(supervised, "rebooted")) == (2, 1)
        assert {event["cause"] for event in supervised.events("escalation", step="cause")} == {"hangs gpu0"}


def test_what_cannot_be_noted_is_not_done() -> None:
    with Supervised({"a": CRASHES}, escalation=ask("exit 0")) as supervised:
        supervised.state.joinpath(f"{FILE_NAME}.part").mkdir()
        quarantine(supervised)
        failed = supervised.wait_event("escalation", step="failed")
        assert "cannot be noted" in failed["reason"]
        assert lines(supervised, "rebooted") == 0


def test_a_memory_that_cannot_be_read_counts_as_an_escalation_just_now() -> None:
    with Supervised({"a": CRASHES}, escalation=ask("exit 0")) as supervised:
        supervised.stop()
        supervised.state.joinpath(FILE_NAME).write_text("{")
        supervised.start()
        supervised.wait_event("escalation", step="forgotten")
        told = supervised.snapshot()["supervisor"]["escalation"]["last"]
        assert told == "unknown, since its note cannot be read"
        quarantine(supervised)
        supervised.wait_event("escalation", step="waits")
        assert lines(supervised, "asked") == 0


def _with_file(timeout: str) -> Supervised:
    made = Supervised({"a": CRASHES}, escalation=ask("exit 0", consent_timeout=timeout))
    text = made.config.read_text()
    made.config.write_text(
        text.replace("[escalation]\n", f"[escalation]\nconsent_file = {json.dumps(str(made.directory / 'stands'))}\n")
    )
    return made


# --- a reload meanwhile ---------------------------------------------------------------------------------------------


def test_what_asks_hooks_and_probes_ends_with_the_image_that_started_it() -> None:
    tell = 'echo $$ > "$HERE/.$0"; mv "$HERE/.$0" "$HERE/$0"; exec sleep 60'
    hanging = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
    probed = worker(hanging, deadlines={"sync": "100ms"}, accelerator="gpu0", probe=["sh", "-c", tell, "probe"])
    asked = {"action": "none", "ask": ["sh", "-c", tell, "ask"], "consent_timeout": "60s"}
    told = {"on_verdict": ["sh", "-c", tell, "hook"], "on_verdict_deadline": "60s"}
    with Supervised({"a": probed, "q": CRASHES}, escalation=asked, hooks=told) as supervised:
        supervised.wait_phase("a", "running", 1)
        supervised.wait_phase("q", "running", 1)
        supervised.touch("go")
        pids = [int(supervised.wait_file(name)) for name in ("probe", "ask", "hook")]
        supervised.process.send_signal(signal.SIGHUP)
        supervised.wait_event("supervisor", change="started", count=2)
        wait_until(lambda: all(map(gone, pids)))
        wait_until(lambda: stage(supervised) == "asking")  # by a child of the new image


def test_a_reload_waits_until_a_reboot_that_was_consented_to_is_under_way() -> None:
    slow = ["sh", "-c", 'echo x >> "$HERE/rebooted"; until test -e "$HERE/end"; do sleep 0.05; done']
    with Supervised({"a": CRASHES}, escalation=ask("exit 0", reboot_command=slow)) as supervised:
        quarantine(supervised)
        supervised.wait_file("rebooted")
        supervised.process.send_signal(signal.SIGHUP)
        supervised.let_pass(1.5)
        assert (stage(supervised), supervised.events("supervisor", change="reloading")) == ("acting", [])
        supervised.touch("end")
        supervised.wait_event("supervisor", change="started", count=2)
        assert supervised.wait_event("escalation", step="earlier")["reason"].startswith("reboot done at 20")
        assert lines(supervised, "rebooted") == 1


# --- SIGKILL does not take ------------------------------------------------------------------------------------------


def test_a_question_that_cannot_be_ended_is_not_asked_again_beside_it(freezer: Freezer) -> None:
    slow = ask('echo $$ > "$HERE/.pid"; mv "$HERE/.pid" "$HERE/pid"; exec sleep 60', consent_timeout="1s")
    with Supervised({"a": CRASHES}, escalation=slow) as supervised:
        quarantine(supervised)
        pid = int(supervised.wait_file("pid"))
        try:
            freezer.freeze(pid)
            supervised.wait_event("escalation", step="no consent")
            supervised.let_pass(1.1)  # runs.STUCK_NS
            supervised.ask("reset", "a")  # its next quarantine asks at once, and not in 10 s
            again = supervised.wait_event("escalation", step="no consent", count=2)
            assert again["reason"].startswith("is still there from the last time")
            assert lines(supervised, "asked") == 1
        finally:
            freezer.thaw()


@pytest.fixture
def stuck(freezer: Freezer) -> Iterator[tuple[Supervised, Freezer]]:
    body = "worker.ready()\nwith worker.call('sync'): tell('in'); hang()"
    hanging = worker(body, deadlines={"sync": "1s"}, accelerator="dla0")
    with Supervised({"a": hanging}, supervisor={"kill_grace": "300ms"}, escalation=ask("sleep 1")) as supervised:
        try:
            pid = supervised.wait_phase("a", "running", 1)["pid"]
            supervised.wait_file("in")
            freezer.freeze(pid)
            supervised.wait_phase("a", "unkillable")
            yield supervised, freezer
        finally:
            freezer.thaw()


def test_an_unkillable_worker_escalates(stuck: tuple[Supervised, Freezer]) -> None:
    supervised, _ = stuck
    wait_until(lambda: stage(supervised) == "done", what=supervised.log)
    assert lines(supervised, "rebooted") == 1
    cause = supervised.events("escalation", "a", step="cause")[0]
    assert (cause["cause"], cause["reason"]) == ("unkillable a", "a: SIGKILL did not take")
    assert cause["incident"] == supervised.events("verdict", "a")[0]["incident"]


def test_one_that_could_be_killed_after_all_does_not_reboot(stuck: tuple[Supervised, Freezer]) -> None:
    supervised, freezer = stuck
    supervised.wait_event("escalation", step="ask")
    freezer.thaw()
    supervised.wait_event("escalation", step="withdrawn")
    supervised.let_pass(1.3)  # the program that was asked has consented meanwhile
    assert (lines(supervised, "asked"), lines(supervised, "rebooted"), stage(supervised)) == (1, 0, "idle")
