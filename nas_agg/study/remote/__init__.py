"""Workers on other machines: they join a search through its storage, and its coordinator leases trials to them.

Imports `study.workers` and packages below it.
"""
