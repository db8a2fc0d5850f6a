"""What is tried in the booted container: each public function of a module here, given a ``Service``, is one scenario.

A new one is a new function; `make test` finds it. It raises to fail, and may leave figures in ``service.facts``.
"""
