"""Is what comes out of the network still an output? Found without a reference: zeros, NaN, one value, the last output.

    check = OutputCheck(bounds=(0.0, 1.0))               # one for each output tensor
    canary = Canary(infer, golden_input, golden_output, precision="fp16")
    canary.run() or sys.exit("wrong output for the golden input")   # before ready()
    worker.ready()
    while True:
        with worker.step():
            output = infer(next_frame())
            if check(output):                            # "zero", "nan", "constant", "stale", "bounds", or None
                continue                                 # not to be acted on; N in a row, and the worker is replaced
        if canary.due():
            canary.run()

Every output that was looked at is counted in the heartbeat, and so is how many in a row were bad. The worker only says
so; the supervisor replaces it if ``outputs.bad_in_a_row`` is configured, and with the verdict ``silent_output``.

**A sample accuses; only the whole output condemns.** At each call a sample is read: at most ``SAMPLE`` blocks of 256
bytes, one in every ``step`` (the power of two that this takes), others each time, so that in ``step`` calls all of it
was seen (8 MB, native: 128 blocks, one in 256, about 40 us). What follows from that:

- ``zero`` and ``constant`` are claims on every element. The sample can only disprove them; where it does not, all of
  the output is read. Never missed, never wrong; a bad output, or one that is nearly empty, costs a whole read.
- ``stale`` too: if the sample is that of the last output, a digest of all of it is kept, and the next one has to have
  the same. Found one output later than it could be (at once where the sample is all there is, up to 32 KiB);
  wrong once in 2**64.
- ``nan`` and ``bounds``: one element is proof, and the sample may miss it. A bad region of ``step`` blocks in a row
  (64 KiB of 8 MB) is in every sample; one of 1/n of that within 4 n calls; a single element that stays bad within
  ``step`` calls; one that is bad in a single output with a probability of 1/``step``. A sample that found something
  is taken again, so that what stays bad is found in every output from then on.

What a network may do rightly, leave out: a mask with nothing in it is all zero, a class label is the same for many
frames. An output of no elements says nothing. Invariant: what is read is not written, and nothing is kept of it but
digests.

Mere bytes, as of ``HostBuffer.view`` and ``Engine.infer``, are taken for integers, of which none is NaN: say
``dtype=``.
"""

from __future__ import annotations

import math
import struct
import time

from watchdogd import abi
from watchdogd.worker import IMPLEMENTATION, _implementation, attach

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing alone would double the import's time
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from typing_extensions import Buffer

    Input = TypeVar("Input")

SAMPLE = 128 if IMPLEMENTATION == "native" else 8  # blocks at each call
_FLOATS = {2: "<e", 4: "<f", 8: "<d"}
_KINDS = {
    **dict.fromkeys("bhilqn", abi.KEY_SIGNED),
    **dict.fromkeys("?BHILQN", abi.KEY_UNSIGNED),
    **dict.fromkeys("efd", abi.KEY_FLOAT),
    "bf16": abi.KEY_BFLOAT,
}
_GIVEN_WIDTHS = {"bf16": 2, **{letter: struct.calcsize(letter) for letter in _KINDS if letter != "bf16"}}
_NATIVE_ORDER = "@=<" if struct.pack("=H", 1) == b"\1\0" else "@=>"

# Largest deviation from the golden output, as a part of its largest magnitude. The precision is what the network
# computes in, whatever it gives out. From the width of its numbers and a hundred layers or so: measure yours.
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1, "fp8": 2e-1, "int8": 2e-1}


class _Elements:
    """How the bytes of a buffer are to be read."""

    __slots__ = ("kind", "width")

    def __init__(self, view: memoryview, dtype: str | None) -> None:
        name = view.format.lstrip(_NATIVE_ORDER) if dtype is None else dtype
        if name not in _KINDS:
            told = "" if dtype is not None else "; say what it holds with dtype="
            raise ValueError(f"elements of format {name!r} cannot be judged; use one of {', '.join(_KINDS)}{told}")
        if not view.c_contiguous:
            raise ValueError("the output is not contiguous: check the array that it is a view of, or a copy")
        self.kind = _KINDS[name]
        self.width = view.itemsize if dtype is None else _GIVEN_WIDTHS[name]
        if view.nbytes % self.width:
            raise ValueError(f"{view.nbytes} bytes are not whole elements of {name!r}")

    def value(self, key: int) -> float:
        """The number whose key that is."""
        if self.kind == abi.KEY_SIGNED:
            return key
        top = 1 << 8 * self.width - 1
        if self.kind == abi.KEY_UNSIGNED:
            return key + top
        bits = (key if key >= 0 else key ^ top - 1) & 2 * top - 1
        if self.kind == abi.KEY_BFLOAT:
            return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
        return float(struct.unpack(_FLOATS[self.width], bits.to_bytes(self.width, "little"))[0])


class OutputCheck:
    """Of one output tensor. Calls of one check must not overlap; different ones may, in any threads.

    ``zero`` ``nan`` ``constant`` ``stale``: whether that is bad. ``nan``: infinities too; ``constant``: all elements
    are equal, and not zero; ``bounds``: lowest and highest value that is not bad; NaN is within none. ``dtype``: what
    a buffer of mere bytes holds, as in ``struct`` (``f d e b B h H i I q Q``), or ``bf16``.
    """

    __slots__ = ("_bounds", "_constant", "_dtype", "_nan", "_run", "_sampled", "_stale", "_turn", "_whole", "_zero")

    def __init__(
        self, *, zero: bool = True, nan: bool = True, constant: bool = True, stale: bool = True,
        bounds: tuple[float, float] | None = None, dtype: str | None = None,
    ) -> None:  # fmt: skip
        if bounds is not None and not bounds[0] <= bounds[1]:
            raise ValueError(f"bounds {bounds}: the lowest comes first")
        _Elements(memoryview(b""), dtype)  # what it cannot judge is refused here, not at the first frame
        attach()
        self._zero, self._nan, self._constant, self._stale = zero, nan, constant, stale
        self._bounds, self._dtype = bounds, dtype
        self._run = self._turn = 0
        self._sampled: int | None = None  # digests of the last output: of a sample, and of all of it
        self._whole: int | None = None

    def __call__(self, output: Buffer, *, input_changed: bool = True) -> str | None:
        """What is wrong with it (the first of ``nan zero constant bounds stale``), or None. Stamps and counts that.

        ``output``: anything with the buffer protocol, in C order. ``input_changed``: without, the same output again is
        right. Raises ValueError for what cannot be judged, TypeError for what is no buffer.
        """
        with memoryview(output) as view:
            elements = _Elements(view, self._dtype)
            if view.nbytes == 0:
                return None
            step = _step(view.nbytes)
            found = self._found(view, elements, step)
            if found is not None:
                self._sampled = self._whole = None  # the next one is new, whatever it is
            else:
                self._turn += 1
                if self._stale and self._is_stale(view, step, input_changed):
                    found = "stale"
        self._run = _implementation.output(self._run, abi.OUTPUT[found or "good"])
        return found

    def _found(self, view: memoryview, elements: _Elements, step: int) -> str | None:
        width, kind = elements.width, elements.kind
        keys = _implementation.extremes(view, width, kind, _first(self._turn, step), step)
        low, high = elements.value(keys[0]), elements.value(keys[1])
        if self._nan and not (math.isfinite(low) and math.isfinite(high)):
            return "nan"
        if keys[0] == keys[1] or low == high:  # the latter: -0.0 and 0.0
            bad = self._zero if low == 0 else self._constant and view.nbytes > width
            if bad and _implementation.uniform(view, width, kind):
                return "zero" if low == 0 else "constant"
        if self._bounds is not None and not (self._bounds[0] <= low and high <= self._bounds[1]):
            return "bounds"
        return None

    def _is_stale(self, view: memoryview, step: int, input_changed: bool) -> bool:
        sampled, whole = self._sampled, self._whole
        self._sampled = _implementation.digest(view, step)
        if step == 1:
            self._whole = self._sampled
        elif input_changed and self._sampled == sampled:
            self._whole = _implementation.digest(view, 1)
        else:
            self._whole = None
        return input_changed and self._whole is not None and self._whole == whole


def _step(size: int) -> int:
    return 1 << ((size - 1) // (abi.BLOCK * SAMPLE)).bit_length()


def _first(turn: int, step: int) -> int:
    """Bits reversed: any 2**n samples in a row have one in each 2**n-th part of a step."""
    bits = step.bit_length() - 1
    return int(f"{turn % step:0{bits}b}"[::-1], 2)


class Canary:
    """The golden input, now and then: a network that runs, and gives something, may still give the wrong thing.

    ``run`` gets ``golden_input`` and returns the output to compare with ``golden_output`` (buffers, as for
    ``OutputCheck``). ``precision`` is what the network computes in: its ``tolerance`` is the largest deviation of an
    element, as a part of the golden output's largest magnitude.
    """

    __slots__ = ("_allowed", "_golden", "_input", "_interval_ns", "_last", "_next_ns", "_output", "_run", "_worker")

    def __init__(
        self, run: Callable[[Input], Buffer], golden_input: Input, golden_output: Buffer, *,
        precision: str = "fp32", tolerance: Mapping[str, float] = TOLERANCE, every_seconds: float = 10.0,
        dtype: str | None = None,
    ) -> None:  # fmt: skip
        if precision not in tolerance:
            raise ValueError(f"no tolerance for precision {precision!r}; there is one for {', '.join(tolerance)}")
        with memoryview(golden_output) as view:
            elements = _Elements(view, dtype)
            if view.nbytes == 0:
                raise ValueError("a golden output of no elements proves nothing")
            keys = _implementation.extremes(view, elements.width, elements.kind, 0, 1)
            self._golden = view.tobytes()
        low, high = map(elements.value, keys)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("the golden output holds NaN or an infinity")
        self._worker = attach()
        self._output, self._input = (elements.width, elements.kind), golden_input
        self._run: Callable[[Input], Buffer] = run
        self._allowed = tolerance[precision] * max(abs(low), abs(high))
        self._interval_ns = round(every_seconds * 1e9)
        self._next_ns = self._last = 0

    def due(self) -> bool:
        """Whether ``run`` is wanted again; never run, it is."""
        return time.monotonic_ns() >= self._next_ns

    def run(self) -> bool:
        """Whether the output is still the golden one, or near enough. If not, that is a bad output of kind ``canary``.

        A step of its own, in the stage ``canary``: its deadlines hold. What ``run`` raises comes through. Raises
        ValueError for an output of another size.
        """
        with self._worker.step(), self._worker.stage("canary"), memoryview(self._run(self._input)) as view:
            if not view.c_contiguous:
                raise ValueError("the output is not contiguous: return a copy")
            if view.nbytes != len(self._golden):
                raise ValueError(f"the output has {view.nbytes} bytes, and the golden output {len(self._golden)}")
            deviation = _implementation.deviation(view, self._golden, *self._output)
        self._next_ns = time.monotonic_ns() + self._interval_ns
        passed = deviation <= self._allowed
        self._last = _implementation.output(self._last, abi.OUTPUT["good" if passed else "canary"])
        return passed
