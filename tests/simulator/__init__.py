"""A simulated GPU: a stand-in libcuda.so.1, its control, and a simulated tegrastats. Nothing here gets installed."""
