"""The victim must not die first: unequal deadlines, and a freeze that spreads from one worker to another."""

from __future__ import annotations

import pytest

from tests.helpers.running import Supervised, gone, wait_until, worker

# Each makes healthy calls until told to go. The GPU's wait ends as soon as the DLA worker is gone, as after a reset.
DLA = """worker.ready()
def call(seconds):
    with worker.call('sync'): time.sleep(seconds)
while INCARNATION > 1 or not (HERE / 'go').exists(): call({median})
with worker.call('sync'):
    tell('frozen', os.getpid())
    hang()"""
GPU = """worker.ready()
def call(seconds):
    with worker.call('sync'): time.sleep(seconds)
while not (HERE / 'frozen').exists(): call(0.003)
time.sleep(0.005)
culprit = int((HERE / 'frozen').read_text())
with worker.call('sync'):
    while os.path.exists(f'/proc/{culprit}'): time.sleep(0.001)
tell('thawed')
while True: call(0.003)"""


def freeze(median: float, coupled: bool) -> Supervised:
    link = {"coupled_with": ["gpu0"]} if coupled else {}
    return Supervised(
        {
            "model_a": worker(GPU, accelerator="gpu0", deadlines={"sync": "50ms"}),
            "model_h": worker(DLA.format(median=median), accelerator="dla0", deadlines={"sync": "200ms"}, **link),
        }
    )


def in_the_middle(supervised: Supervised) -> int:
    """Both have a history of calls; pid of the GPU worker."""
    both = ("model_a", "model_h")
    wait_until(lambda: all(supervised.view(name)["sync_seconds"]["count"] > 35 for name in both))
    supervised.touch("go")
    return int(supervised.worker("model_a")["pid"])


@pytest.mark.parametrize("median", [0.004, 0.03, 0.08])
def test_the_worker_that_froze_first_is_killed_first_and_its_victim_never(median: float) -> None:
    """Whatever its usual call takes: less than the freeze takes to spread, more, more than the victim's deadline."""
    with freeze(median, coupled=True) as supervised:
        pid = in_the_middle(supervised)
        supervised.wait_file("thawed")
        supervised.wait_phase("model_h", "running", 2)
        held, verdict = supervised.events("verdict", verdict="call")
        # The victim's verdict was not delayed, its kill was.
        assert (held["worker"], verdict["worker"]) == ("model_a", "model_h")
        assert held["detected_ns"] < verdict["detected_ns"]
        assert "model_h" in held["held"]
        assert [event["worker"] for event in supervised.events("signal")] == ["model_h"]
        supervised.wait_event("near_miss", "model_a", incident=held["incident"])
        assert (supervised.worker("model_a")["pid"], gone(pid)) == (pid, False)
        wait_until(lambda: supervised.worker("model_a")["held"] is None)


def test_without_a_coupling_nobody_s_kill_waits_for_another() -> None:
    with freeze(median=0.004, coupled=False) as supervised:
        in_the_middle(supervised)
        first = supervised.wait_event("signal")
        assert first["worker"] == "model_a"
        assert supervised.events("verdict", "model_a")[0]["held"] is None


def test_a_hold_ends_and_a_worker_that_hangs_by_itself_is_killed_after_its_suspect_was() -> None:
    """Its own call does not return when the suspect is gone: it was no victim."""
    both = GPU.replace("while os.path.exists(f'/proc/{culprit}'): time.sleep(0.001)", "hang()")
    workers = {
        "model_a": worker(both, accelerator="gpu0", deadlines={"sync": "50ms"}),
        "model_h": worker(DLA.format(median=0.004), accelerator="dla0", deadlines={"sync": "200ms"},
                          coupled_with=["gpu0"]),
    }  # fmt: skip
    with Supervised(workers) as supervised:
        in_the_middle(supervised)
        supervised.wait_event("gone", "model_a")
        assert [event["worker"] for event in supervised.events("signal")][:2] == ["model_h", "model_a"]
        assert len(supervised.events("verdict", "model_a", incarnation=1)) == 1


def test_a_gpu_worker_that_hangs_alone_waits_no_longer_than_a_healthy_call_of_the_dla() -> None:
    healthy = DLA.format(median=0.08).replace("INCARNATION > 1 or not (HERE / 'go').exists()", "True")
    alone = "serve_until('go')\nif INCARNATION == 1:\n    with worker.call('sync'): hang()\nserve()"
    workers = {
        "model_a": worker(alone, accelerator="gpu0", deadlines={"sync": "50ms"}),
        "model_h": worker(healthy, accelerator="dla0", deadlines={"sync": "5s"}, coupled_with=["gpu0"]),
    }
    with Supervised(workers) as supervised:
        in_the_middle(supervised)
        supervised.wait_phase("model_a", "running", 2)
        [signal] = supervised.events("signal")
        [verdict] = supervised.events("verdict")
        assert signal["worker"] == verdict["worker"] == "model_a"
        assert signal["monotonic_ns"] - verdict["detected_ns"] < 500_000_000
