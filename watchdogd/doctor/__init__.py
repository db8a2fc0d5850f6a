"""``watchdogd doctor``: what this machine offers and lacks, what is lost by that, and the remedy.

Invariant: the process that a person waits for touches no driver, no mount and no bus. Each check runs in a child of its
own that is given up at its deadline, so that a sick GPU or disk is an answer ("no answer"), not a wait.
"""
