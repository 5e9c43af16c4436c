"""Executors of trials: worker processes on this machine, remote workers behind a storage, table look-ups.

Imports `study.scheduling` and packages below it.
"""
