"""From which version on cuda-python is fit for a worker that is to be watched.

Invariant: nothing of CUDA is imported here.
"""

from __future__ import annotations

_RELEASES_GIL = (12, 9, 1)


def holds_gil(version: str) -> bool:
    """Whether that version of cuda-bindings keeps the GIL while a driver call blocks."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal()) < _RELEASES_GIL
