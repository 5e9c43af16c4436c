"""What every room uses: errors of one line, strict reading and atomic writing of files, tables on the console.

Imports nothing of the project.
"""
