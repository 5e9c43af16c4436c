"""Searches a table of results with one's own function: 1,278 networks that were all trained before, in seconds.

    python examples/search_a_table.py [TABLE.csv.gz]

The same works for any table: names with their values, and a function that looks a point up.
"""

import csv
import gzip
import importlib.resources
import sys

import nas_agg

shipped = importlib.resources.files("nas_agg.spaces") / "agg-bench.csv.gz"
with gzip.open(sys.argv[1] if len(sys.argv) > 1 else shipped.open("rb"), "rt") as file:
    table = list(csv.DictReader(line for line in file if not line.startswith("#")))

names = {name: list({row[name]: None for row in table}) for name in list(table[0])[:8]}
results = {tuple(row[name] for name in names): row for row in table}


def evaluate(values, trial):
    row = results[tuple(values.values())]
    return float(row["accuracy"]), float(row["macs"])


found = nas_agg.search(names, evaluate, searcher="predictor", budget=60, objective="accuracy:max,macs:min", show=True)
print(found.values)
