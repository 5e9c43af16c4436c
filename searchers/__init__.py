"""Search algorithms, one per file; installed as the package ``nas_agg.searchers``."""
