"""Searches a table of 1,278 trained networks with a custom objective function, in seconds.

    python examples/search_a_table.py [TABLE.csv.gz]

The same works for any table: search variables with their values, and a function that looks up a point.
"""

import csv
import gzip
import importlib.resources
import sys

import nas_agg

shipped = importlib.resources.files("nas_agg.spaces") / "agg-bench.csv.gz"
with gzip.open(sys.argv[1] if len(sys.argv) > 1 else shipped.open("rb"), "rt") as file:
    table = list(csv.DictReader(line for line in file if not line.startswith("#")))

variables = {name: list({row[name]: None for row in table}) for name in list(table[0])[:8]}
results = {tuple(row[name] for name in variables): row for row in table}


def evaluate(values, trial):
    row = results[tuple(values.values())]
    return float(row["accuracy"]), float(row["macs"])


result = nas_agg.search(
    variables, evaluate, searcher="predictor", budget=60, objective="accuracy:max,macs:min", show=True
)
print(result.values)
