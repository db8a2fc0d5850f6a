"""Act: what was decided is done: spawn, signal, clear away, ask. Nothing here waits, and nothing here decides."""
