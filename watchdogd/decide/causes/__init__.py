"""One module for each kind of evidence that a cause can be read from; ``decide.diagnosis`` asks them in turn."""
