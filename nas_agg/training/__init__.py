"""Training: data sets, recipes, augmentation, the training loop, evaluation, latency, memory and proxies.

Knows nothing of searches. Imports ``compiler`` and the packages below it; heavy libraries are imported
where they are used.
"""
