"""The heartbeat: the one table that every party reads.

A heartbeat is a file of ``SIZE`` bytes and the driver region, one per incarnation of a worker, made and reserved by the
supervisor and named to the worker by the environment variable ``ENVIRONMENT``. Workers (Python, C, C++, the driver
shim) map and write it; the supervisor, the exporter and ``watchdogd status`` only ever *read* it with ``pread``, so
that a worker that truncates it gets a short read noticed, not a SIGBUS in its reader.

Invariant: **one fact is one aligned 8-byte word** in native byte order, written with one plain store; no verdict
needs two words to agree. ``watchdogd.h`` is generated from this module (``python -m watchdogd.abi_header``), and a test
compiles it and compares every offset.

A *stamp* is such a word: 0, or a CLOCK_MONOTONIC time in ns whose low bits are replaced by a code. Eight bits (256 ns)
for operations, stages and states; sixteen (66 us) for CUDA errors.

====================  =================================================================================================
region                contents
====================  =================================================================================================
header                ``HEADER`` words, from byte 0
hot lines             ``LANES`` lines of 64 bytes, from ``HOT_OFFSET``: what is happening now (``LANE`` words)
stage names           ``STAGES`` entries of 32 bytes, from ``STAGE_OFFSET``: NUL-padded UTF-8, first word written last
cold blocks           ``LANES`` blocks of ``COLD_STRIDE`` bytes, from ``COLD_OFFSET``: what has happened; never cleared,
                      so that every count only grows, whoever owns the lane
output counts         a word for each of ``OUTPUTS`` from writers with compare-and-swap, then the same from those under
                      the lock, from ``OUTPUT_COUNTS_OFFSET``
requests              ``REQUESTS_HEADER`` words, then ``REQUESTS`` entries of two words, from ``REQUESTS_OFFSET``: which
                      work is in flight, by the worker's own numbers
driver                beyond ``SIZE``, since version 3: what the driver shim saw (``watchdogd.abi_driver``)
====================  =================================================================================================

Claiming. A lane belongs to one thread, a stage name to whoever wrote it first, a request to the step it was begun for.
Writers with an atomic compare-and-swap claim the entries that ``is_locked()`` says no for; writers without (pure
Python) claim the others, under a POSIX record lock on byte 0 of the file. The two never meet, so neither has to know of
the other.

Lanes of kind *process* (``tid`` 0 in ``owner``) belong to a process as a whole and hold its steps: a step may begin
in one thread and end in another. ``step`` is the begin time of the oldest step in flight. A process that calls
``exec`` keeps its pid, but nobody is left to clear its words: so the lane says which program *image* its owner runs, by
the start of its stack (field 28 of ``/proc/PID/stat``, another with every ``exec`` where addresses are randomized;
0 = unknown).

Requests. An entry is what became of a request (a stamp of ``REQUEST_STATES``), then its number, written first. Nobody
owns an entry: a request that was begun and not ended is in flight until its incarnation is gone, whatever became of the
process that began it. The file of a successor may begin with what its predecessor had in flight, each entry in its old
place: so it is taken by the kind of writer that had claimed it.

Versions. A version is a set of facts that the words carry. A file outlives the supervisor that made it (adoption), and
libraries of several versions, each compiled on its own, may write one file. So nobody asks which version a word is of:
**for every fact that was added, 0 means "not said"**, which is what a library of before leaves there. The previous
version, 1, did not say whether a step is its process's first, which image claimed a lane, when the last step ended, nor
anything of outputs, requests or a bisect; 2, the present one, does.
Two words of the header are about it:

- ``version``: that of the supervisor that made the file. Readers believe their own and all before it, and no later one.
- ``oldest_writer``: libraries of this version and of all later ones may write the file; others go on unwatched.

Who makes version 4 raises ``VERSION`` and says here what is new. If facts were only added: put them into words, or
codes, that are 0 so far, and let 0 be judged to the good of a healthy worker. If words moved or mean something else:
raise ``OLDEST_WRITER`` too, let the reader keep the offsets of version 3 for as long as its workers are to be adopted,
and tell that programs built with version 3 must be built anew: unwatched, they are never ready.
"""

from __future__ import annotations

ENVIRONMENT = "WATCHDOGD_HEARTBEAT"
VERSION = 3
OLDEST_WRITER = 1
MAGIC = 0x3142_4854_474F_4457  # b"WDOGHTB1" on a little-endian machine
BYTE_ORDER = 0x0102_0304_0506_0708

WORD = 8
CODE_BITS = 8
CODE_MASK = (1 << CODE_BITS) - 1
ERROR_BITS = 16
ERROR_MASK = (1 << ERROR_BITS) - 1

# Header words, in order. The supervisor writes the first block before the worker starts; the worker writes the second.
# Of that the supervisor writes READY into ``state`` where a probe or a time says so; nobody takes it back.
HEADER = (
    "magic",
    "oldest_writer",  # what libraries of version 1, which know no other, compare with their own version
    "byte_order",
    "size",
    "lanes",
    "hot_offset",
    "hot_stride",
    "stage_offset",
    "stages",
    "cold_offset",
    "cold_stride",
    "ring_entries",
    "boot_id_high",  # of /proc/sys/kernel/random/boot_id: a monotonic time means nothing after a reboot
    "boot_id_low",
    "incarnation",
    "spawned_ns",
    "spawned_pid",
    "version",  # 0 = 1, which had no such word
    "bisect",  # one of BISECTS: whether the worker is to synchronize after each stage
    "driver",  # bits of abi_driver.OPTIONS: what the driver shim is to do
    "attached_pid",  # the process that attached last
    "pid_namespace",  # its inode: pids of another namespace cannot be looked up by the supervisor
    "state",  # stamp of STATES
    "last_error",  # stamp, 16 bits: the last CUresult that was not success
    "lanes_used_cas",  # highest claimed lane + 1, by compare-and-swap claimers
    "lanes_used_locked",  # the same, by claimers under the lock
    "laneless_cas",  # threads that found no lane (counted once each)
    "laneless_locked",
    "stages_used_cas",  # claimed stage names
    "stages_used_locked",
    "bad_outputs",  # the longest run of bad outputs under way: begin (16 bits cut), length << 8, kind of the newest
    "last_step_ns",  # when the last step ended (CLOCK_MONOTONIC), of whichever process; 0 = none, or not said
)
HEADER_SIZE = 256
H = {name: index for index, name in enumerate(HEADER)}

# Words of a hot line, in order.
LANE = (
    "outer",  # stamp of OPERATIONS: the outermost guard in flight, 0 outside
    "inner",  # stamp: the first guard nested in it; deeper ones fold into it
    "step",  # process lanes: stamp of the oldest step in flight, code STEP_FIRST or STEP_LATER; STEP_UNKNOWN before 2
    "stage",  # stamp of a stage code: the innermost open stage; of a process lane: the program image, see below
    "owner",  # pid << 32 | tid; 0 = free
    "calls",  # guards left so far; the newest ring entry is (calls - 1) % RING_ENTRIES
    "steps_begun",
    "steps_done",
)
LANE_WORDS = len(LANE)
L = {name: index for index, name in enumerate(LANE)}
HOT_STRIDE = LANE_WORDS * WORD  # one cache line: threads do not share one

LANES = 320
LOCKED_EVERY = 5  # lane or dynamic stage i is claimed under the lock if i % 5 == 4: 256 by CAS, 64 by lock


def is_locked(index: int) -> bool:
    """Whether a lane or stage is claimed under the record lock (else by compare-and-swap)."""
    return index % LOCKED_EVERY == LOCKED_EVERY - 1


OPERATIONS = ("none", "sync", "event", "alloc", "free", "copy", "launch", "other")
OPERATION = {name: code for code, name in enumerate(OPERATIONS)}

# A step begun before its process had done any is judged by ``first_step``, however long the others in flight take.
STEP_UNKNOWN, STEP_FIRST, STEP_LATER = range(3)

# What an output can be. ``bad_outputs`` is one fact: since when, how many in a row, of what kind; 0 = the last one was
# good, or there was none. Each check of a worker has a run of its own; the word shows the longest one under way, and
# only the check whose run it is ends it.
OUTPUTS = ("good", "zero", "nan", "constant", "stale", "bounds", "canary")
OUTPUT = {name: code for code, name in enumerate(OUTPUTS)}
RUN_LENGTH_SHIFT = 8
MOST_IN_A_ROW = 255  # counted; a longer run stays there
BLOCK = 256  # bytes of an output that are sampled at a time, as a memory access costs the same for four cache lines
KEY_SIGNED, KEY_UNSIGNED, KEY_FLOAT, KEY_BFLOAT = range(4)  # how an output's elements compare

# What became of a request. The file of a successor starts with ``given`` ones: its worker asks for them one by one.
REQUEST_STATES = ("free", "claimed", "begun", "given", "taken", "again")  # claimed: its number is being written
REQUEST_STATE = {name: code for code, name in enumerate(REQUEST_STATES)}
REQUESTS_HEADER = (
    "given",  # how many this incarnation was given; 0 = none, so nobody need look for one
    "asked_ns",  # when it last asked for one; 0 = never
    "unkept_cas",  # requests that found no entry
    "unkept_locked",
)
REQUESTS = 200  # entries; entry i is claimed under the lock if is_locked(i): 160 by CAS, 40 by lock
REQUEST_WORDS = 2

STATES = ("created", "attached", "ready")
STATE = {name: code for code, name in enumerate(STATES)}

# The supervisor asks; a library that does synchronize after each stage says so. One that does not leaves it at "asked".
BISECTS = ("off", "asked", "done")
BISECT = {name: code for code, name in enumerate(BISECTS)}

# Stage codes below FIRST_DYNAMIC_STAGE have these names everywhere; the others are claimed and named by writers.
WELL_KNOWN_STAGES = ("none", "preprocess", "copy_in", "enqueue", "plugin", "sync", "copy_out", "postprocess")
FIRST_DYNAMIC_STAGE = 16
STAGES = 256  # entries; code = index; entries below FIRST_DYNAMIC_STAGE stay empty
STAGE_NAME_SIZE = 32

# A cold block: per operation (and one for steps) the sum of durations and a histogram, then the ring.
# Buckets: [0, 1024 ns), then 4 per octave from 2**10 to 2**37 ns (137 s), then the rest.
HISTOGRAM_FIRST_OCTAVE = 10
HISTOGRAM_LAST_OCTAVE = 37
HISTOGRAM_SUB_BITS = 2
BUCKETS = ((HISTOGRAM_LAST_OCTAVE - HISTOGRAM_FIRST_OCTAVE) << HISTOGRAM_SUB_BITS) + 2
HISTOGRAM_WORDS = 1 + BUCKETS  # total_ns, then the counts
STEP_HISTOGRAM = 0  # operation code 0 is no operation, so its histogram holds step durations
HISTOGRAMS = len(OPERATIONS)
RING_ENTRIES = 32
RING_ENTRY_WORDS = 2  # entry stamp, duration_ns << 8 | stage code
RING_OFFSET = HISTOGRAMS * HISTOGRAM_WORDS * WORD  # within the cold block
COLD_STRIDE = (RING_OFFSET + RING_ENTRIES * RING_ENTRY_WORDS * WORD + 63) // 64 * 64

HOT_OFFSET = HEADER_SIZE
STAGE_OFFSET = HOT_OFFSET + LANES * HOT_STRIDE
COLD_OFFSET = STAGE_OFFSET + STAGES * STAGE_NAME_SIZE
OUTPUT_COUNTS_OFFSET = COLD_OFFSET + LANES * COLD_STRIDE
OUTPUT_COUNTS = 16  # words for each of the two kinds of writers
REQUESTS_OFFSET = OUTPUT_COUNTS_OFFSET + 2 * OUTPUT_COUNTS * WORD
REQUEST_TABLE_OFFSET = REQUESTS_OFFSET + len(REQUESTS_HEADER) * WORD
REQUESTS_SIZE = (len(REQUESTS_HEADER) + REQUESTS * REQUEST_WORDS) * WORD
SIZE = (REQUESTS_OFFSET + REQUESTS_SIZE + 4095) // 4096 * 4096  # what versions 1 and 2 knew, and every library maps

# What the supervisor writes at creation, and any reader or writer checks before it believes the rest. The first
# words of the header, in order.
CONSTANT_HEADER = {
    "magic": MAGIC,
    "oldest_writer": OLDEST_WRITER,
    "byte_order": BYTE_ORDER,
    "size": SIZE,
    "lanes": LANES,
    "hot_offset": HOT_OFFSET,
    "hot_stride": HOT_STRIDE,
    "stage_offset": STAGE_OFFSET,
    "stages": STAGES,
    "cold_offset": COLD_OFFSET,
    "cold_stride": COLD_STRIDE,
    "ring_entries": RING_ENTRIES,
}


def stamp(time_ns: int, code: int) -> int:
    """The word for ``code`` since ``time_ns`` (CLOCK_MONOTONIC); up to 255 ns earlier than that time."""
    return (time_ns & ~CODE_MASK) | code


def run_of_bad(begun_ns: int, length: int, kind: str) -> int:
    """The word ``bad_outputs`` for a run that began then; its time is up to 66 us earlier."""
    return (begun_ns & ~ERROR_MASK) | min(length, MOST_IN_A_ROW) << RUN_LENGTH_SHIFT | OUTPUT[kind]


def bucket_of(duration_ns: int) -> int:
    """Index of the histogram bucket that counts a duration in ns."""
    if duration_ns < 1 << HISTOGRAM_FIRST_OCTAVE:
        return 0
    octave = duration_ns.bit_length() - 1
    if octave >= HISTOGRAM_LAST_OCTAVE:
        return BUCKETS - 1
    sub = (duration_ns >> (octave - HISTOGRAM_SUB_BITS)) & ((1 << HISTOGRAM_SUB_BITS) - 1)
    return 1 + ((octave - HISTOGRAM_FIRST_OCTAVE) << HISTOGRAM_SUB_BITS) + sub


def bucket_upper_ns(index: int) -> int | None:
    """Exclusive upper bound of a bucket in ns; None for the last, which has none."""
    if index == 0:
        return 1 << HISTOGRAM_FIRST_OCTAVE
    if index >= BUCKETS - 1:
        return None
    octave, sub = divmod(index - 1, 1 << HISTOGRAM_SUB_BITS)
    octave += HISTOGRAM_FIRST_OCTAVE
    return (1 << octave) + ((sub + 1) << (octave - HISTOGRAM_SUB_BITS))
