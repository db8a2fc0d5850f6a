"""View: what a person reads of all this at a terminal. It asks the supervisor nothing."""
