"""Loggers: callbacks of searches that write to TensorBoard, MLflow and Weights & Biases, each an extra."""
