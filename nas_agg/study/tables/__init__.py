"""Networks with results at hand: tables of trained networks, how such a table is made, and bare parameters.

Imports `study.definition`.
"""
