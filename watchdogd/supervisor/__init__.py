"""The supervisor itself: its tick, which observes, decides, acts and publishes, and how it begins and is followed."""
