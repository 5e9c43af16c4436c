"""Steps of a training: its batches, the processes that share them, mixing, gradients and updates.

Imports data, augmentation, losses and optimizers of ``training``, and the packages below.
"""
