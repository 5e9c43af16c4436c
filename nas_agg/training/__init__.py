"""Training: data sets, recipes, augmentation, the training loop, evaluation, latency, memory and proxies.

Knows nothing of searches. Imports ``compiler`` and the rooms below; heavy libraries are imported where they are used.
"""
