"""The keeper of incidents, a child of the supervisor: it collects evidence, writes it to disk and completes it."""
