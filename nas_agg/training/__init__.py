"""Data, recipes, the training loop and what it leaves on disk; nothing here is imported before it is needed."""
