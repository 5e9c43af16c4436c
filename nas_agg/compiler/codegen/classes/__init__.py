"""The text of classes: units, loops and aggregates node by node, and the names and expressions of their numbers.

Imports from `ir/` only.
"""
