"""Python code as trees: the classes of an emitted file, the table that prints them, and rewrites of them.

`ir.py` is the representation, Python's own `ast`, with its printer; `rewrites.py` inlines short sequences, folds
repeated statements into loops and drops unused names; `numbers.py` simplifies schedules, `formatting.py` breaks lines
and frames the file, `helpers.py` has the functions that emitted files use. Nothing here knows how networks are traced.
"""
