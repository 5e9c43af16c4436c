"""Backends that run trials on clusters, Ray and Slurm, and how trials and data sets travel to other machines.

Each needs an extra, and is imported only when a search asks for it. Imports `study.workers` and packages below it.
"""
