"""The genotype language: layers, patterns, operators, expressions, genotypes, and their resolution.

Every word of the language is one small class; the types of the genotype are composed of the registries of words.
Imports `graph` and `common`.
"""
