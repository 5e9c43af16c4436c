"""Runs a plan: the run folder is begun or checked, trials run, and the best network is trained in full.

`run.py` is the entry; `run_start.py` begins or extends a run, `components.py` makes the parts of a search,
`active_search.py` is the search while it runs, `outcome.py` its result. It belongs to the package `study`.
"""
