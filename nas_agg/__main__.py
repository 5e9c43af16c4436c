"""``python -m nas_agg``: the same as the ``nas_agg`` command."""

from __future__ import annotations

from nas_agg.cli import main

if __name__ == "__main__":
    main()
