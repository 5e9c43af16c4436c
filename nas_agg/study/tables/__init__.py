"""Networks whose results are known: tables of trained networks, the builder of such tables, and bare parameters.

A table takes the place of training and of costs, so that searchers can be compared in seconds. Imports
`study.definition` and the packages below it.
"""
