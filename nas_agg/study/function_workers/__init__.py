"""Worker processes of this machine that evaluate networks by a function of the caller, in place of training them.

Imports `study.workers` and packages below it.
"""
