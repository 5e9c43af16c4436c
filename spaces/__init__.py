"""The search spaces, one YAML file each; installed as ``nas_agg.spaces``."""
