"""Where trials run: backends by name, the worker processes of a machine, messages, look-ups.

Imports `study.scheduling` and packages below it.
"""
