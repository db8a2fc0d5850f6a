"""``make demo``: the main job, on the simulated driver or on a real GPU, observed from outside."""
