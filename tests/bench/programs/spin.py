"""A busy process. Invariant: it ends when its parent does."""

import os

parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
