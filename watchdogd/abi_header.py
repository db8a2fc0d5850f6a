"""The block of constants in ``watchdogd.h``, which ``python -m watchdogd.abi_header`` prints.

Invariant: every number comes from ``abi`` or ``abi_driver``; none is written here.
"""

from __future__ import annotations

from watchdogd import abi, abi_driver


def c_header_block() -> str:
    """The constants as C preprocessor lines, for the marked block of ``watchdogd.h``."""
    values: dict[str, int] = {
        "VERSION": abi.VERSION,
        "MAGIC": abi.MAGIC,
        "BYTE_ORDER": abi.BYTE_ORDER,
        "SIZE": abi.SIZE,
        "LANES": abi.LANES,
        "LOCKED_EVERY": abi.LOCKED_EVERY,
        "HOT_OFFSET": abi.HOT_OFFSET,
        "HOT_STRIDE": abi.HOT_STRIDE,
        "STAGE_OFFSET": abi.STAGE_OFFSET,
        "STAGES": abi.STAGES,
        "STAGE_NAME_SIZE": abi.STAGE_NAME_SIZE,
        "FIRST_DYNAMIC_STAGE": abi.FIRST_DYNAMIC_STAGE,
        "COLD_OFFSET": abi.COLD_OFFSET,
        "COLD_STRIDE": abi.COLD_STRIDE,
        "RING_OFFSET": abi.RING_OFFSET,
        "RING_ENTRIES": abi.RING_ENTRIES,
        "HISTOGRAM_FIRST_OCTAVE": abi.HISTOGRAM_FIRST_OCTAVE,
        "HISTOGRAM_LAST_OCTAVE": abi.HISTOGRAM_LAST_OCTAVE,
        "HISTOGRAM_SUB_BITS": abi.HISTOGRAM_SUB_BITS,
        "BUCKETS": abi.BUCKETS,
        "HISTOGRAM_WORDS": abi.HISTOGRAM_WORDS,
        "CODE_MASK": abi.CODE_MASK,
        "ERROR_MASK": abi.ERROR_MASK,
        "OUTPUT_COUNTS_OFFSET": abi.OUTPUT_COUNTS_OFFSET,
        "OUTPUT_COUNTS": abi.OUTPUT_COUNTS,
        "REQUESTS_OFFSET": abi.REQUESTS_OFFSET,
        "REQUEST_TABLE_OFFSET": abi.REQUEST_TABLE_OFFSET,
        "REQUESTS": abi.REQUESTS,
        "REQUEST_WORDS": abi.REQUEST_WORDS,
        "RUN_LENGTH_SHIFT": abi.RUN_LENGTH_SHIFT,
        "MOST_IN_A_ROW": abi.MOST_IN_A_ROW,
        "BLOCK": abi.BLOCK,
        "KEY_SIGNED": abi.KEY_SIGNED,
        "KEY_UNSIGNED": abi.KEY_UNSIGNED,
        "KEY_FLOAT": abi.KEY_FLOAT,
        "KEY_BFLOAT": abi.KEY_BFLOAT,
    }
    values |= {f"HEADER_{name.upper()}": index for name, index in abi.H.items() if not name.startswith("reserved")}
    values |= {f"LANE_{name.upper()}": index for name, index in abi.L.items()}
    driver = """OFFSET SIZE LANES_OFFSET LANE_STRIDE CONTEXTS_OFFSET CONTEXTS CONTEXT_STRIDE STREAMS_OFFSET STREAMS
        STREAM_STRIDE HOST_FUNCTIONS_OFFSET HOST_FUNCTIONS HOST_FUNCTION_STRIDE LONGEST_TICK_NS"""
    values |= {f"DRIVER_{name}": getattr(abi_driver, name) for name in driver.split()}
    tables: dict[str, tuple[str, ...]] = {
        "HEADER": abi_driver.HEADER,
        "LANE": abi_driver.LANE,
        "CONTEXT": abi_driver.CONTEXT,
        "STREAM": abi_driver.STREAM,
        "HOST_FUNCTION": abi_driver.HOST_FUNCTION,
    }
    for table, words in tables.items():
        values |= {f"DRIVER_{table}_{word.upper()}": index for index, word in enumerate(words) if "unused" not in word}
    values |= {f"DRIVER_OPTION_{name.upper()}": bit for name, bit in abi_driver.OPTION.items()}
    values |= {f"OP_{name.upper()}": code for name, code in abi.OPERATION.items()}
    values |= {"STEP_FIRST": abi.STEP_FIRST, "STEP_LATER": abi.STEP_LATER}
    values |= {f"BISECT_{name.upper()}": code for name, code in abi.BISECT.items()}
    values |= {f"STATE_{name.upper()}": code for name, code in abi.STATE.items()}
    values |= {f"OUTPUT_{name.upper()}": code for name, code in abi.OUTPUT.items()}
    values |= {f"REQUESTS_{name.upper()}": index for index, name in enumerate(abi.REQUESTS_HEADER)}
    values |= {f"REQUEST_{name.upper()}": code for name, code in abi.REQUEST_STATE.items()}
    values |= {f"STAGE_{name.upper()}": code for code, name in enumerate(abi.WELL_KNOWN_STAGES)}
    lines = [f'#define WATCHDOGD_ENVIRONMENT "{abi.ENVIRONMENT}"']
    lines += [f"#define WATCHDOGD_{name} UINT64_C(0x{value:x})" for name, value in values.items()]
    names = ", ".join(f'"{name}"' for name in abi.WELL_KNOWN_STAGES)
    lines.append(f"#define WATCHDOGD_WELL_KNOWN_STAGES {names}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(c_header_block(), end="")
