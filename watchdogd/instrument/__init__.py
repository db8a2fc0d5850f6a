"""A driver shim in front of the CUDA driver of a worker whose code is not changed (``instrument = "driver"``)."""
