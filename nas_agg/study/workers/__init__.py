"""Where trials run: local processes, workers on other machines behind a storage, look-ups in a table.

Imports `study.scheduling` and what lies below it.
"""
