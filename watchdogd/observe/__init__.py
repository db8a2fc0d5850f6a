"""Observe: what is read, and how it is read: heartbeats, threads and processes, load. It judges nothing."""
