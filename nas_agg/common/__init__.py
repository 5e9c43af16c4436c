"""Shared foundations: one-line errors, strict reading and atomic writing of files, console tables.

Imports no other package of the project.
"""
