"""Where trials run: backends by name, the worker processes of a machine, remote workers behind a storage, look-ups.

Imports `study.scheduling` and packages below it.
"""
