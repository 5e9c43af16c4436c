"""Python code as trees: a representation of classes, the table that prints it, its rewrites, schedules as expressions.

Nothing here knows how networks are traced; `compiler.codegen` writes their classes with it.
"""
