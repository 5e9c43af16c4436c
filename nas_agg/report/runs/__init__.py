"""What tables, curves and pages show of runs: summaries, comparisons, importances of variables, predictions."""
