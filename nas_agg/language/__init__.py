"""The genotype language: layers, patterns, operators, expressions, the genotype, and names resolved without expanding.

Every word of the language is one small class; the types of the genotype are composed of their registries. Imports
`graph` and `common`.
"""
