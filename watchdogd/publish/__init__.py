"""Publish: what is known and what was done, told to others: the board, the event record, systemd."""
