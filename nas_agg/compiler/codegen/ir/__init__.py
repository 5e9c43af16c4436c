"""The parts of a network as an intermediate representation: expressions with numbers as literals, and what they share.

`tree.py` has the expressions and parts, `parts.py` makes them from the trace of an expansion, with `layers.py` and
`gathers.py` for its layers and gathers, and `class_keys.py` decides which of them share
a class. Nothing here writes text.
"""
