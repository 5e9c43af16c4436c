"""Output for readers: trees and drawings of networks, the papers' tables beside our counts and runs, plots.

Reads runs through ``study.records``. May import every package below the command line; nothing in ``study`` imports it.
"""
