"""Stories, each a field report or a trap, as data: ``(now in ms, worker, what happens, its phase then, all orders)``.

``Exit`` and ``CLEARED`` are what the kernel and the sweep tell after a kill; a row without an event is a tick.
"""

from __future__ import annotations

from tests.helpers.pulses import deadlines, ms
from tests.histories.cast import (
    Asleep,
    Past,
    Row,
    Stalls,
    Story,
    Truncates,
    Writes,
    calls,
    fails,
    outputs,
    ready,
    returns,
    shim,
    started,
    steps,
)
from watchdogd import abi
from watchdogd.decide.orders import Trigger
from watchdogd.model import (
    MILLISECOND,
    SECOND,
    Deadlines,
    Exit,
    OutputSettings,
    Phase,
    ProgressSource,
    RestartSettings,
    SupervisorSettings,
    WorkerSettings,
)

P, T = Phase, Trigger
KILLED = Exit(signal=9)
SEGFAULT = Exit(signal=11)


def worker(
    name: str, accelerator: str = "gpu0", restart: RestartSettings | None = None, **lengths: float
) -> WorkerSettings:
    return WorkerSettings(
        name, (name,), accelerator=accelerator, coupled_with=("gpu0",), stop_timeout_ns=2 * SECOND,
        deadlines=deadlines(**{"startup": 60_000, **lengths}), restart=restart or RestartSettings(),
    )  # fmt: skip


H = worker("h", sync=200)


def dies(name: str, at_ms: float, *, orders: str) -> tuple[Row, Row]:
    """A killed worker is gone and cleared away; ``orders`` follow."""
    return (
        (at_ms, name, KILLED, P.KILLING, f"{name} clear"),
        (at_ms + 1, name, T.CLEARED, P.STARTING, orders),
    )


DLA_DEADLOCK = Story(
    "the DLA freezes, the GPU worker 5 ms later; its shorter deadline passes first, the DLA worker is killed first",
    (worker("dla", "dla0", sync=200), worker("gpu", sync=50)),
    (
        *started("dla", "gpu"),
        (20, "dla", Past("sync", 9), P.RUNNING, ""),
        (20, "gpu", Past("sync", 33), P.RUNNING, ""),
        (1000, "gpu", calls("sync", 1000), P.RUNNING, ""),
        (1002, "dla", calls("sync", 1002), P.RUNNING, ""),
        (1050, "gpu", None, P.RUNNING, "gpu open call"),  # a verdict, not held back; only its kill is
        (1150, "gpu", None, P.RUNNING, ""),
        (1202, "dla", None, P.KILLING, "dla open call, dla KILL"),
        (1210, "gpu", None, P.RUNNING, ""),
        *dies("dla", 1300, orders="dla spawn 2"),
        (1310, "gpu", returns(), P.RUNNING, "gpu close returned"),
        (1400, "dla", ready(1400), P.RUNNING, "dla close recovered"),
        (9000, "gpu", None, P.RUNNING, ""),
    ),
)

FULL = worker("h", sync=200)._replace(evidence="full", evidence_budget_ns=400 * MILLISECOND)
DUMPED = FULL._replace(gpu_core_dump=True)

EVIDENCE_FIRST = Story(
    "evidence of a hang is taken, for no longer than its budget, and then it is killed",
    (FULL,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1200, "h", None, P.COLLECTING, "h open call, h collect"),
        (1599, "h", None, P.COLLECTING, ""),
        (1600, "h", None, P.KILLING, "h KILL"),
        *dies("h", 1700, orders="h spawn 2"),
        (1800, "h", ready(1800), P.RUNNING, "h close recovered"),
    ),
)

RETURNED_MEANWHILE = Story(
    "a call returns while evidence is taken of it: no kill; what hangs later is a hang of its own",
    (FULL,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1200, "h", None, P.COLLECTING, "h open call, h collect"),
        (1300, "h", returns(), P.RUNNING, "h close returned"),
        (1310, "h", T.COLLECTED, P.RUNNING, ""),
        (1600, "h", None, P.RUNNING, ""),
        (2000, "h", calls("sync", 2000), P.RUNNING, ""),
        (2200, "h", None, P.COLLECTING, "h open call, h collect"),
        (2250, "h", T.COLLECTED, P.KILLING, "h KILL"),
    ),
)

DUMPED_AND_MOVED = Story(
    "a core dump makes the hung call return: its kill was committed before, and comes",
    (DUMPED,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1200, "h", None, P.COLLECTING, "h open call, h collect"),
        (1250, "h", T.COLLECTED, P.COLLECTING, "h commit, h dump"),
        (1400, "h", returns(), P.COLLECTING, ""),
        (1500, "h", T.COLLECTED, P.KILLING, "h KILL"),
    ),
)

HELD_WHILE_COLLECTING = Story(
    "the DLA worker froze the device and evidence is taken of it: its victim is not killed meanwhile, nor afterwards",
    (worker("dla", "dla0", sync=200)._replace(evidence="full"), worker("gpu", sync=250)),
    (
        *started("dla", "gpu"),
        (1000, "dla", calls("sync", 1000), P.RUNNING, ""),
        (1002, "gpu", calls("sync", 1002), P.RUNNING, ""),
        (1200, "dla", None, P.COLLECTING, "dla open call, dla collect"),
        (1252, "gpu", None, P.RUNNING, "gpu open call"),
        (1599, "gpu", None, P.RUNNING, ""),
        (1600, "dla", None, P.KILLING, "dla KILL"),
        *dies("dla", 1700, orders="dla spawn 2"),
        (1710, "gpu", returns(), P.RUNNING, "gpu close returned"),
    ),
)

WRONG_SUSPECT = Story(
    "the suspect's call returns: the victim's own hang is acted on at once",
    (worker("dla", "dla0", sync=200), worker("gpu", sync=50)),
    (
        *started("dla", "gpu"),
        (20, "dla", Past("sync", 9), P.RUNNING, ""),
        (20, "gpu", Past("sync", 33), P.RUNNING, ""),
        (1000, "gpu", calls("sync", 1000), P.RUNNING, ""),
        (1002, "dla", calls("sync", 1002), P.RUNNING, ""),
        (1050, "gpu", None, P.RUNNING, "gpu open call"),
        (1100, "dla", returns(), P.RUNNING, "gpu KILL"),
        (1101, "gpu", None, P.KILLING, ""),
    ),
)

SUSPECT_WITH_TIME = Story(
    "the machine stalls, so the suspect is given time beyond its deadline: its victim's kill waits as long",
    (worker("dla", "dla0", sync=200), worker("gpu", sync=50)),
    (
        *started("dla", "gpu"),
        (20, "dla", Past("sync", 9), P.RUNNING, ""),
        (20, "gpu", Past("sync", 33), P.RUNNING, ""),
        (1000, "gpu", calls("sync", 1000), P.RUNNING, ""),
        (1002, "dla", calls("sync", 1002), P.RUNNING, ""),
        (1050, "gpu", None, P.RUNNING, "gpu open call"),
        (1350, "gpu", Asleep(140), P.RUNNING, ""),
        (1400, "gpu", None, P.RUNNING, ""),
        (1490, "dla", None, P.KILLING, "dla open call, dla KILL"),
        *dies("dla", 1500, orders="dla spawn 2"),
        (1510, "gpu", returns(), P.RUNNING, "gpu close returned"),
    ),
)

FROZEN_BY_A_GPU_WORKER = Story(
    "a GPU worker freezes the device: after the DLA worker, who was not it, only the likeliest of the others is killed",
    (worker("dla", "dla0", sync=200), worker("a", sync=50), worker("b", sync=50)),
    (
        *started("dla", "a", "b"),
        (20, "dla", Past("sync", 9), P.RUNNING, ""),
        (20, "a", Past("sync", 33), P.RUNNING, ""),
        (20, "b", Past("sync", 9), P.RUNNING, ""),
        (1000, "b", calls("sync", 1000), P.RUNNING, ""),
        (1001, "dla", calls("sync", 1001), P.RUNNING, ""),
        (1005, "a", calls("sync", 1005), P.RUNNING, ""),
        (1050, "b", None, P.RUNNING, "b open call"),
        (1055, "a", None, P.RUNNING, "a open call"),
        (1201, "dla", None, P.KILLING, "dla open call, dla KILL"),
        *dies("dla", 1300, orders="dla spawn 2"),
        (1350, "a", None, P.RUNNING, ""),
        (1352, "a", None, P.RUNNING, "b KILL"),
        (1390, "a", None, P.RUNNING, ""),
        *dies("b", 1400, orders="b spawn 2"),
        (1410, "a", returns(), P.RUNNING, "a close returned"),
    ),
)

FREEZE_THAT_HEALS = Story(
    "a call past its soft level returns: a near miss, nothing is ordered",
    (H,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1100, "h", None, P.RUNNING, ""),
        (1199, "h", None, P.RUNNING, ""),
        (1199, "h", returns(), P.RUNNING, ""),
        (1300, "h", calls("sync", 1300), P.RUNNING, ""),
        (1499, "h", None, P.RUNNING, ""),
    ),
)

ENGINE_BUILD = Story(
    "an engine build at startup synchronizes for most of a minute; deadlines are armed when it is done",
    (worker("h", sync=200, step=500),),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (1000, "h", calls("sync", 1000), P.STARTING, ""),
        (1000, "h", Writes({"step": 0x100}), P.STARTING, ""),
        (55_000, "h", None, P.STARTING, ""),
        (55_001, "h", Writes({"step": 0}), P.STARTING, ""),
        (55_002, "h", ready(55_002), P.RUNNING, ""),
        (55_100, "h", None, P.RUNNING, ""),
        (55_150, "h", returns(), P.RUNNING, ""),
    ),
)

NEVER_READY = Story(
    "a worker that hangs before its first heartbeat is caught all the same",
    (H,),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (59_999, "h", None, P.STARTING, ""),
        (60_000, "h", None, P.KILLING, "h open startup, h KILL"),
        *dies("h", 60_010, orders="h spawn 2"),
    ),
)

CRASH_LOOP = Story(
    "first restart at once, then backoff, then quarantine; an operator's reset starts it afresh",
    (worker("h", restart=RestartSettings(budget=3)),),
    (
        *started("h"),
        (100, "h", SEGFAULT, P.KILLING, "h open crashed, h clear"),
        (101, "h", T.CLEARED, P.STARTING, "h spawn 2"),
        (200, "h", SEGFAULT, P.KILLING, "h close ended again, h open crashed, h clear"),
        (201, "h", T.CLEARED, P.BACKOFF, ""),
        (280, "h", None, P.BACKOFF, ""),  # 100 ms, shortened by a fifth at most
        (301, "h", None, P.STARTING, "h spawn 3"),
        (310, "h", ready(310), P.RUNNING, "h close recovered"),
        (400, "h", SEGFAULT, P.KILLING, "h open crashed, h clear"),
        (401, "h", T.CLEARED, P.BACKOFF, ""),
        (560, "h", None, P.BACKOFF, ""),
        (601, "h", None, P.STARTING, "h spawn 4"),
        (700, "h", SEGFAULT, P.KILLING, "h close ended again, h open crashed, h clear"),
        (701, "h", T.CLEARED, P.QUARANTINED, "h close quarantined"),
        (10**6, "h", None, P.QUARANTINED, ""),
        (10**6, "h", T.START, P.QUARANTINED, ""),
        (10**6, "h", T.RESET, P.STARTING, "h spawn 5"),
        (10**6 + 1, "h", SEGFAULT, P.KILLING, "h open crashed, h clear"),
        (10**6 + 2, "h", T.CLEARED, P.STARTING, "h spawn 6"),
    ),
)

RETRY_SLOWLY = Story(
    "with the budget spent it goes on at the longest backoff",
    (worker("h", restart=RestartSettings(budget=1, when_spent="retry-slowly")),),
    (
        *started("h"),
        (100, "h", SEGFAULT, P.KILLING, "h open crashed, h clear"),
        (101, "h", T.CLEARED, P.STARTING, "h spawn 2"),
        (200, "h", SEGFAULT, P.KILLING, "h close ended again, h open crashed, h clear"),
        (201, "h", T.CLEARED, P.BACKOFF, ""),
        (8200, "h", None, P.BACKOFF, ""),
        (10_201, "h", None, P.STARTING, "h spawn 3"),
        (10_300, "h", SEGFAULT, P.KILLING, "h close ended again, h open crashed, h clear"),
        (10_301, "h", T.CLEARED, P.BACKOFF, ""),
        (18_300, "h", None, P.BACKOFF, ""),
        (20_301, "h", None, P.STARTING, "h spawn 4"),
    ),
)

UNKILLABLE = Story(
    "SIGKILL does not take: a visible state, no successor, the other worker goes on; a late end is its way back",
    (H, worker("other", sync=200)),
    (
        *started("h", "other"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1200, "h", None, P.KILLING, "h open call, h KILL"),
        (6199, "h", None, P.KILLING, ""),
        (6200, "h", None, P.UNKILLABLE, "h clear"),
        (7000, "other", calls("sync", 7000), P.RUNNING, ""),
        (7200, "other", None, P.KILLING, "other open call, other KILL"),
        (10**6, "h", None, P.UNKILLABLE, "other clear"),
        (10**6 + 1, "h", KILLED, P.UNKILLABLE, "h clear"),
        (10**6 + 2, "h", T.CLEARED, P.STARTING, "h spawn 2"),
        (10**6 + 9, "h", ready(10**6 + 9), P.RUNNING, "h close recovered"),
    ),
)

STOP_DURING_A_KILL = Story(
    "an operator's stop while a kill is under way: no restart fires",
    (H,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1200, "h", None, P.KILLING, "h open call, h KILL"),
        (1201, "h", T.STOP, P.KILLING, ""),
        (1210, "h", KILLED, P.KILLING, "h clear"),
        (1211, "h", T.CLEARED, P.STOPPED, "h close stopped"),
        (10**6, "h", None, P.STOPPED, ""),
        (10**6, "h", T.START, P.STARTING, "h spawn 2"),
    ),
)

STOP_OF_A_DEAF_WORKER = Story(
    "a worker that ignores SIGTERM gets SIGKILL after its stop timeout, whatever wakes the supervisor before",
    (H,),
    (
        *started("h"),
        (1000, "h", T.STOP, P.TERMINATING, "h TERM"),
        (1001, "h", calls("sync", 1001), P.TERMINATING, ""),
        (2999, "h", None, P.TERMINATING, ""),
        (3000, "h", None, P.KILLING, "h KILL"),
        (3010, "h", KILLED, P.KILLING, "h clear"),
        (3011, "h", T.CLEARED, P.STOPPED, ""),
    ),
)

STOP_DURING_BACKOFF = Story(
    "a worker that waits to be restarted is stopped: it is not restarted",
    (H,),
    (
        *started("h"),
        (100, "h", SEGFAULT, P.KILLING, "h open crashed, h clear"),
        (101, "h", T.CLEARED, P.STARTING, "h spawn 2"),
        (200, "h", SEGFAULT, P.KILLING, "h close ended again, h open crashed, h clear"),
        (201, "h", T.CLEARED, P.BACKOFF, ""),
        (210, "h", T.STOP, P.STOPPED, "h close stopped"),
        (10**6, "h", None, P.STOPPED, ""),
    ),
)

DEBUGGER = Story(
    "paused for a debugger, its call stands for an hour; after the resume it has its whole deadline again",
    (H,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1050, "h", T.PAUSE, P.PAUSED, ""),
        (3_600_000, "h", None, P.PAUSED, ""),
        (3_600_000, "h", T.RESUME, P.RUNNING, ""),
        (3_600_199, "h", None, P.RUNNING, ""),
        (3_600_200, "h", None, P.KILLING, "h open call, h KILL"),
    ),
)

PAUSED_WITH_A_HELD_KILL = Story(
    "paused while its kill is held: the verdict is dropped, its incident closed",
    (H,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1200, "h", None, P.RUNNING, "h open call"),
        (1210, "h", T.PAUSE, P.PAUSED, "h close paused"),
        (1220, "h", returns(), P.PAUSED, ""),
        (9000, "h", T.RESUME, P.RUNNING, ""),
        (9001, "h", None, P.RUNNING, ""),
    ),
    SupervisorSettings(max_kills=0),
)

STICKY_ERROR = Story(
    "a CUDA error that no later call survives: replaced without waiting for a hang",
    (H,),
    (
        *started("h"),
        (1000, "h", fails(2, 1000), P.RUNNING, ""),  # out of memory passes
        (1500, "h", fails(719, 1500), P.KILLING, "h open sticky_error, h KILL"),
        *dies("h", 1510, orders="h spawn 2"),
        (1600, "h", ready(1600), P.RUNNING, "h close recovered"),
        (1700, "h", None, P.RUNNING, ""),
    ),
)

RULE = OutputSettings(bad_in_a_row=5)

SILENT_OUTPUT = Story(
    "outputs all zero, no error, calls return in time: the fifth in a row is a verdict; the successor's are good",
    (H._replace(outputs=RULE),),
    (
        *started("h"),
        (1000, "h", outputs(999, 1), P.RUNNING, ""),
        (1030, "h", outputs(0, 0), P.RUNNING, ""),  # a single one passes
        (2000, "h", outputs(2000, 1), P.RUNNING, ""),
        (2100, "h", outputs(2000, 4), P.RUNNING, ""),
        (2133, "h", outputs(2000, 5), P.KILLING, "h open silent_output, h KILL"),
        *dies("h", 2140, orders="h spawn 2"),
        (2200, "h", ready(2200), P.RUNNING, "h close recovered"),
        (9000, "h", None, P.RUNNING, ""),
    ),
)

SILENT_OUTPUT_WITHOUT_A_RULE = Story(
    "outputs all zero for an hour, and nobody said that this is a fault: nothing is ordered",
    (H,),
    (
        *started("h"),
        (1000, "h", outputs(1000, 1), P.RUNNING, ""),
        (3_600_000, "h", outputs(1000, 255), P.RUNNING, ""),
    ),
)

OUTPUTS_OF_A_LIBRARY_TO_COME = Story(
    "a kind of bad output that is not known here, or begun at an impossible time, condemns nobody",
    (H._replace(outputs=RULE),),
    (
        *started("h"),
        (1000, "h", Writes({"bad_outputs": ms(1000) & ~abi.ERROR_MASK | 200 << 8 | len(abi.OUTPUTS)}), P.RUNNING, ""),
        (2000, "h", Writes({"bad_outputs": 200 << 8 | 1}), P.RUNNING, ""),
        (3000, "h", outputs(9000, 200), P.RUNNING, ""),
    ),
)

CANARY_BEFORE_READY = Story(
    "the golden input's output is wrong at each try before ready: replaced without waiting for the startup deadline",
    (H._replace(outputs=OutputSettings(bad_in_a_row=2)),),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (500, "h", outputs(400, 1, "canary"), P.STARTING, ""),
        (900, "h", outputs(400, 2, "canary"), P.KILLING, "h open silent_output, h KILL"),
        *dies("h", 910, orders="h spawn 2"),
    ),
)

SILENT_OUTPUT_OF_A_PAIR = Story(
    "the outputs of what is left of a redundancy group go bad: its kill waits for its peer, and is not needed then",
    tuple(worker(name, sync=200)._replace(redundancy="front", outputs=RULE, coupled_with=()) for name in "hk"),
    (
        *started("h", "k"),
        (1000, "k", calls("sync", 1000), P.RUNNING, ""),
        (1200, "k", None, P.KILLING, "k open call, k KILL"),
        (1210, "h", outputs(1100, 5, "nan"), P.RUNNING, "h open silent_output"),
        *dies("k", 1300, orders="k spawn 2"),
        (1400, "h", outputs(0, 0), P.RUNNING, "h close returned"),
        (1500, "k", ready(1500), P.RUNNING, "k close recovered"),
        (1600, "h", outputs(1600, 5, "nan"), P.KILLING, "h open silent_output, h KILL"),
    ),
)

SILENT_OUTPUT_PAUSED = Story(
    "somebody looks at a worker whose outputs are bad: nothing while it is paused; if it goes on then, a verdict",
    (H._replace(outputs=RULE),),
    (
        *started("h"),
        (1000, "h", T.PAUSE, P.PAUSED, ""),
        (2000, "h", outputs(2000, 9), P.PAUSED, ""),
        (3000, "h", T.RESUME, P.RUNNING, ""),
        (3001, "h", None, P.RUNNING, ""),  # it may be all that is left of a process that is gone
        (3030, "h", outputs(2000, 10), P.KILLING, "h open silent_output, h KILL"),
    ),
)

SILENT_OUTPUT_CAPPED = Story(
    "no kill is left in the window: the verdict stands until its outputs are good again",
    (H._replace(outputs=RULE),),
    (
        *started("h"),
        (1000, "h", outputs(1000, 5), P.RUNNING, "h open silent_output"),
        (1500, "h", outputs(1000, 60, "constant"), P.RUNNING, ""),  # the same run, whatever its length and kind
        (1600, "h", outputs(0, 0), P.RUNNING, "h close returned"),
        (1700, "h", outputs(1700, 5), P.RUNNING, "h open silent_output"),  # another run is another verdict
    ),
    SupervisorSettings(max_kills=0),
)

SILENT_OUTPUT_OBSERVED = Story(
    "observe only: each run of bad outputs is one verdict, and nothing is signalled",
    (H._replace(outputs=RULE),),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (10, "h", ready(10), P.OBSERVED, ""),
        (1000, "h", outputs(1000, 5), P.OBSERVED, "h would kill silent_output"),
        (1100, "h", outputs(1000, 8), P.OBSERVED, ""),
        (1200, "h", outputs(0, 0), P.OBSERVED, "h close returned"),
        (1300, "h", outputs(1300, 5), P.OBSERVED, "h would kill silent_output"),
    ),
    SupervisorSettings(observe_only=True),
)

OBSERVE_ONLY = Story(
    "observe only, for a week: every verdict is reached, nothing is signalled, a real crash is restarted",
    (worker("h", sync=200, step=500),),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (10, "h", ready(10), P.OBSERVED, ""),
        (1000, "h", calls("sync", 1000), P.OBSERVED, ""),
        (1200, "h", None, P.OBSERVED, "h would kill call"),
        (86_400_000, "h", None, P.OBSERVED, ""),
        (86_400_001, "h", returns(), P.OBSERVED, "h close returned"),
        (86_401_000, "h", calls("sync", 86_401_000), P.OBSERVED, ""),
        (86_401_200, "h", None, P.OBSERVED, "h would kill call"),
        (604_800_000, "h", SEGFAULT, P.KILLING, "h close ended again, h open crashed, h clear"),
        (604_800_001, "h", T.CLEARED, P.STARTING, "h spawn 2"),
    ),
    SupervisorSettings(observe_only=True),
)

OBSERVE_ONLY_ONE_AFTER_THE_OTHER = Story(
    "observe only: a call that never returns hides no later verdict, and none is told twice",
    (worker("h", sync=200, step=500),),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (10, "h", ready(10), P.OBSERVED, ""),
        (1000, "h", calls("sync", 1000), P.OBSERVED, ""),
        (1000, "h", steps(1000), P.OBSERVED, ""),
        (1200, "h", None, P.OBSERVED, "h would kill call"),
        (1300, "h", None, P.OBSERVED, ""),
        (1501, "h", None, P.OBSERVED, "h close overtaken, h would kill step"),
        (1502, "h", None, P.OBSERVED, ""),
        (2000, "h", calls("sync", 1900, "inner"), P.OBSERVED, ""),
        (2100, "h", None, P.OBSERVED, "h close overtaken, h would kill call"),
        (2150, "h", returns("step"), P.OBSERVED, ""),  # not the last one: nothing is closed by it
        (2200, "h", returns("inner"), P.OBSERVED, "h close returned"),
        (2300, "h", fails(719, 2300), P.OBSERVED, "h would kill sticky_error"),
        (2400, "h", fails(719, 2400), P.OBSERVED, ""),
        (86_400_000, "h", fails(719, 86_400_000), P.OBSERVED, ""),
    ),
    SupervisorSettings(observe_only=True),
)

OBSERVED_WHILE_STARTING = Story(
    "observe only, never ready: one startup verdict, also when it attaches after that",
    (H,),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (60_000, "h", None, P.STARTING, "h would kill startup"),
        (60_010, "h", Writes({"state": 0x101}), P.STARTING, ""),
        (70_000, "h", None, P.STARTING, ""),
    ),
    SupervisorSettings(observe_only=True),
)

READY_NOTICED_LATE = Story(
    "a warm-up call of another thread is in flight at ready: its deadline counts from ready, not from the look at it",
    (H,),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (500, "h", calls("sync", 500), P.STARTING, ""),
        (5050, "h", ready(5000), P.RUNNING, ""),
        (5199, "h", None, P.RUNNING, ""),
        (5200, "h", None, P.KILLING, "h open call, h KILL"),
    ),
)

READY_WHILE_THE_MACHINE_STALLED = Story(
    "the machine stalls from ready on: a call entered before is looked at again after as long",
    (H,),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (590, "h", calls("sync", 590), P.STARTING, ""),
        (850, "h", Stalls(ready(600), 150), P.RUNNING, ""),
        (851, "h", None, P.RUNNING, ""),
        (1000, "h", None, P.RUNNING, ""),
        (1001, "h", None, P.KILLING, "h open call, h KILL"),
    ),
)

POWER_MODE_SWITCH = Story(
    "a power-mode switch stalls every worker: after two kills the others are left to recover",
    tuple(worker(f"w{number}", f"gpu{number}", sync=100 + number) for number in range(1, 4)),
    (
        *started("w1", "w2", "w3"),
        *((1000, f"w{number}", calls("sync", 1000), P.RUNNING, "") for number in range(1, 4)),
        (1101, "w1", None, P.KILLING, "w1 open call, w1 KILL"),
        (1102, "w2", None, P.KILLING, "w2 open call, w2 KILL"),
        (1103, "w3", None, P.RUNNING, "w3 open call"),  # the cap
        (5000, "w3", None, P.RUNNING, ""),
        (6000, "w3", returns(), P.RUNNING, "w3 close returned"),
        (6090, "w3", calls("sync", 6090), P.RUNNING, ""),
        (6193, "w3", None, P.RUNNING, "w3 open call"),
        (11_102, "w3", None, P.KILLING, "w3 KILL"),  # a kill has left the window
    ),
    SupervisorSettings(max_kills=2, max_kills_window_ns=10 * SECOND, kill_grace_ns=20 * SECOND),
)

ALL_AT_ONCE = Story(
    "three deadlines pass in one tick: the cap holds within it",
    tuple(worker(f"w{number}", f"gpu{number}", sync=100) for number in range(1, 4)),
    (
        *started("w1", "w2", "w3"),
        *((1000, f"w{number}", calls("sync", 1000), P.RUNNING, "") for number in range(1, 4)),
        (1100, "w3", None, P.RUNNING, "w1 open call, w1 KILL, w2 open call, w2 KILL, w3 open call"),
        (1101, "w3", returns(), P.RUNNING, "w3 close returned"),
    ),
    SupervisorSettings(max_kills=2),
)

SUSPEND = Story(
    "the machine sleeps with a call in flight: looked at again after as long, once; a hang is still found",
    (H,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1250, "h", Asleep(150), P.RUNNING, ""),
        (1251, "h", None, P.RUNNING, ""),  # woken by something else
        (1400, "h", None, P.KILLING, "h open call, h KILL"),
    ),
)

STALL_BEFORE_THE_DEADLINE = Story(
    "a machine that stalled while the call still had time took that time from it",
    (H,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1190, "h", Asleep(80), P.RUNNING, ""),
        (1200, "h", None, P.RUNNING, ""),
        (1279, "h", None, P.RUNNING, ""),
        (1280, "h", None, P.KILLING, "h open call, h KILL"),
    ),
)

PAUSED_WHILE_STARTING = Story(
    "paused while starting: the startup deadline begins again, and what was entered before is still believed",
    (H,),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (500, "h", calls("sync", 500), P.STARTING, ""),
        (1000, "h", T.PAUSE, P.PAUSED, ""),
        (100_000, "h", T.RESUME, P.STARTING, ""),
        (100_001, "h", None, P.STARTING, ""),
        (159_000, "h", ready(159_000), P.RUNNING, ""),
        (159_199, "h", None, P.RUNNING, ""),
        (159_200, "h", None, P.KILLING, "h open call, h KILL"),
    ),
)

UNREADABLE = Story(
    "a heartbeat that cannot be read is no sign that the call has returned",
    (H,),
    (
        (0, "h", T.START, P.STARTING, "h spawn 1"),
        (10, "h", ready(10), P.OBSERVED, ""),
        (1000, "h", calls("sync", 1000), P.OBSERVED, ""),
        (1200, "h", None, P.OBSERVED, "h would kill call"),
        (1300, "h", Truncates(), P.OBSERVED, ""),
    ),
    SupervisorSettings(observe_only=True),
)

OUTER_AND_INNER = Story(
    "an overdue outer call is not hidden by the fresh inner ones",
    (worker("h", sync=200, other=1000),),
    (
        *started("h"),
        (1000, "h", calls("other", 1000), P.RUNNING, ""),
        (1900, "h", calls("sync", 1900, "inner"), P.RUNNING, ""),
        (1999, "h", calls("sync", 1999, "inner"), P.RUNNING, ""),
        (2000, "h", None, P.KILLING, "h open call, h KILL"),
    ),
)

REDUNDANT = tuple(
    worker(name, accelerator, sync=50)._replace(redundancy="front", coupled_with=())
    for name, accelerator in (("a", "gpu0"), ("b", "gpu1"))
)

REDUNDANT_PAIR = Story(
    "both of a redundancy group hang: one is killed, the other only when the first is back",
    REDUNDANT,
    (
        *started("a", "b"),
        (1000, "a", calls("sync", 1000), P.RUNNING, ""),
        (1000, "b", calls("sync", 1000), P.RUNNING, ""),
        (1050, "b", None, P.RUNNING, "a open call, a KILL, b open call"),
        *dies("a", 1100, orders="a spawn 2"),
        (1290, "b", None, P.RUNNING, ""),
        (1300, "a", ready(1300), P.RUNNING, "a close recovered"),
        (1305, "b", None, P.KILLING, "b KILL"),
    ),
)

REDUNDANT_SLOW_PEER = Story(
    "what is left of a redundancy group is slow while its peer comes back: it is not killed for that",
    REDUNDANT,
    (
        *started("a", "b"),
        (1000, "a", calls("sync", 1000), P.RUNNING, ""),
        (1050, "a", None, P.KILLING, "a open call, a KILL"),
        *dies("a", 1100, orders="a spawn 2"),
        (1200, "b", calls("sync", 1200), P.RUNNING, ""),
        (1250, "b", None, P.RUNNING, "b open call"),
        (1400, "b", returns(), P.RUNNING, "b close returned"),
        (1500, "a", ready(1500), P.RUNNING, "a close recovered"),
        (1600, "b", None, P.RUNNING, ""),
    ),
)

LEFT = worker("h", sync=200, restart=RestartSettings(before_exit=1))._replace(on_verdict="exit")

LEFT_TO_ITS_OWNER = Story(
    "with on_verdict exit it is restarted before_exit times after verdicts, then left to whoever owns the supervisor",
    (LEFT,),
    (
        *started("h"),
        (1000, "h", calls("sync", 1000), P.RUNNING, ""),
        (1200, "h", None, P.KILLING, "h open call, h KILL"),
        *dies("h", 1210, orders="h spawn 2"),
        (1300, "h", ready(1300), P.RUNNING, "h close recovered"),
        (2000, "h", calls("sync", 2000), P.RUNNING, ""),
        (2200, "h", None, P.KILLING, "h open call, h KILL"),
        (2210, "h", KILLED, P.KILLING, "h clear"),
        (2211, "h", T.CLEARED, P.STOPPED, "h close stopped, h leave after call"),
    ),
)

ENDED_BY_ITSELF = Story(
    "with on_verdict exit an end of its own is not followed by a restart, whatever before_exit says",
    (LEFT,),
    (
        *started("h"),
        (100, "h", SEGFAULT, P.KILLING, "h open crashed, h clear"),
        (101, "h", T.CLEARED, P.STOPPED, "h close stopped, h leave after its own end"),
    ),
)

ASKED_TO_RESTART = Story(
    "with on_verdict exit a restart that somebody asked for is one all the same",
    (LEFT,),
    (
        *started("h"),
        (100, "h", T.RESTART, P.TERMINATING, "h TERM"),
        (110, "h", KILLED, P.KILLING, "h clear"),
        (111, "h", T.CLEARED, P.STARTING, "h spawn 2"),
    ),
)

GETS_ON = WorkerSettings(
    "p", ("p",), instrument="driver", progress=ProgressSource("sync"), deadlines=Deadlines(progress_ns=SECOND)
)


def queues_host_function(at_ms: int) -> Writes:
    words = shim(host_queued_ns=at_ms).words
    return Writes({**words, "owner": 7 << 32, "host_owner": 7 << 32 | 1})


def ran_host_function(at_ms: int) -> Writes:
    return Writes({**shim(host_function_ns=at_ms).words, "host_queued_ns": 0})


def asks(begin_ms: int, end_ms: int) -> tuple[Row, ...]:
    """Queries every 100 ms that find work undone, until the one at ``end_ms``."""
    return tuple((at, "p", shim(unready_ns=at), P.RUNNING, "") for at in range(begin_ms, end_ms + 1, 100))


STALL = Story(
    "a kernel hangs, and the program asks for it for ever without a blocking call: pending for a second, a stall",
    (GETS_ON,),
    (
        *started("p"),
        (100, "p", shim(loaded_ns=5, completed_ns=90), P.RUNNING, ""),
        (1000, "p", shim(queued_ns=1000), P.RUNNING, ""),
        *asks(1100, 2000),
        # When it was queued is known to two ticks of 10 ms: nothing counts from before.
        (2020, "p", shim(unready_ns=2020), P.KILLING, "p open stall, p KILL"),
        *dies("p", 2100, orders="p spawn 2"),
        (3000, "p", ready(3000), P.RUNNING, "p close recovered"),
        (9000, "p", None, P.RUNNING, ""),
    ),
)

STALL_HOST_FUNCTION = Story(
    "a kernel hangs, and the program waits for a host function behind it: no call, and queries find other streams idle",
    (GETS_ON,),
    (
        *started("p"),
        (100, "p", shim(loaded_ns=5, completed_ns=90), P.RUNNING, ""),
        (990, "p", shim(queued_ns=990), P.RUNNING, ""),
        (1000, "p", queues_host_function(1000), P.RUNNING, ""),
        (1900, "p", None, P.RUNNING, ""),
        (2000, "p", None, P.KILLING, "p open stall, p KILL"),
        *dies("p", 2100, orders="p spawn 2"),
        (3000, "p", ready(3000), P.RUNNING, "p close recovered"),
        (9000, "p", None, P.RUNNING, ""),
    ),
)

STALL_NOT_HOST_FUNCTION = Story(
    "the same program where its kernel ends: host functions run one by one, then it is idle for an hour",
    (GETS_ON,),
    (
        *started("p"),
        (100, "p", shim(loaded_ns=5, completed_ns=90), P.RUNNING, ""),
        (1000, "p", queues_host_function(1000), P.RUNNING, ""),
        (1900, "p", shim(host_function_ns=1890), P.RUNNING, ""),
        (2600, "p", shim(host_function_ns=2590), P.RUNNING, ""),
        (3300, "p", ran_host_function(3300), P.RUNNING, ""),
        (9000, "p", None, P.RUNNING, ""),
        (3_600_000, "p", queues_host_function(3_600_000), P.RUNNING, ""),
        (3_600_900, "p", ran_host_function(3_600_900), P.RUNNING, ""),
        (3_700_000, "p", None, P.RUNNING, ""),
    ),
)

STALL_NOT_IDLE = Story(
    "a program queues something after its last synchronize, waits for an hour, and then for a request: idle",
    (GETS_ON,),
    (
        *started("p"),
        (100, "p", shim(loaded_ns=5, completed_ns=90), P.RUNNING, ""),
        (1000, "p", shim(queued_ns=1000), P.RUNNING, ""),
        (1300, "p", None, P.RUNNING, ""),
        (9000, "p", None, P.RUNNING, ""),
        (3_600_000, "p", shim(queued_ns=3_600_000), P.RUNNING, ""),
        *((at, "p", shim(unready_ns=at), P.RUNNING, "") for at in range(3_600_100, 3_600_800, 100)),
        (3_600_800, "p", shim(completed_ns=3_600_790), P.RUNNING, ""),
        (3_700_000, "p", None, P.RUNNING, ""),
    ),
)

STALL_PAUSED = Story(
    "a program asks for ever while it is paused; from the resume on it has all its time again",
    (GETS_ON,),
    (
        *started("p"),
        (100, "p", shim(loaded_ns=5, completed_ns=90), P.RUNNING, ""),
        *asks(1000, 1500),
        (1600, "p", T.PAUSE, P.PAUSED, ""),
        (5000, "p", T.RESUME, P.RUNNING, ""),
        *asks(5100, 6000),
        (6100, "p", shim(unready_ns=6100), P.KILLING, "p open stall, p KILL"),
    ),
)

STORIES = tuple(value for value in list(globals().values()) if isinstance(value, Story))
