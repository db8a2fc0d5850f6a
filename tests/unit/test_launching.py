"""Who a worker runs as: looked up once, told clearly where there is nobody of that name."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from watchdogd.act import launching
from watchdogd.act.runtime import CannotStart
from watchdogd.model import WorkerSettings

ME = pwd.getpwuid(os.getuid())


def settings(name: str, user: str | None = None, group: str | None = None) -> WorkerSettings:
    return WorkerSettings(name, (name,), user=user, group=group)


def test_each_worker_has_the_identity_it_was_configured() -> None:
    group = grp.getgrgid(ME.pw_gid).gr_name
    workers = [settings("own"), settings("me", ME.pw_name), settings("grouped", group=group)]
    identities = launching.Identities()
    identities.look_up(workers)
    found = {worker.name: identities.of(worker) for worker in workers}
    groups = tuple(os.getgrouplist(ME.pw_name, ME.pw_gid))
    assert found == {
        "own": None,
        "me": (ME.pw_uid, ME.pw_gid, groups),
        "grouped": (ME.pw_uid, ME.pw_gid, (ME.pw_gid,)),
    }


@pytest.mark.parametrize("key", ["user", "group"])
def test_an_unknown_name_is_a_start_up_error_that_names_the_worker(key: str) -> None:
    with pytest.raises(CannotStart, match=r"worker model_h .*'nobody-such'.*workers\.model_h"):
        launching.Identities().look_up([settings("fine"), settings("model_h", **{key: "nobody-such"})])


def test_what_is_launched_runs_as_what_was_looked_up_at_the_start() -> None:
    """Not looked up again: the name may stand for nothing any more, or for a network that does not answer."""
    ids = (17, 18, (18, 19))
    launch = launching.request(settings("a", user="nobody-such"), "/heartbeat", "/birth", None, {}, ids)
    assert launch.ids == ids


def test_a_worker_is_started_anew_for_core_dumps_of_its_gpu_and_not_for_a_setting_without_effect() -> None:
    plain, dumps = settings("a"), settings("a")._replace(evidence="full", gpu_core_dump=True)
    assert launching.fingerprint(dumps) != launching.fingerprint(plain)
    assert launching.request(dumps, "/heartbeat", "/birth", None, {}, None, dump="/d").dump == "/d"
    without_effect = settings("a")._replace(gpu_core_dump=True)
    assert launching.fingerprint(without_effect) == launching.fingerprint(plain)
    assert launching.request(without_effect, "/heartbeat", "/birth", None, {}, None, dump="/d").dump is None
