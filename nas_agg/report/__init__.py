"""What people read: trees and drawings of networks, the papers' tables beside our counts and runs, figures.

Runs are read through `study.records`; nothing in a study imports this room.
"""
