"""The searchers, one file each; installed as ``nas_agg.searchers``."""
