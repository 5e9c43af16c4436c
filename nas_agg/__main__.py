"""Entry point of ``python -m nas_agg``, the same as the ``nas_agg`` command."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    try:
        from nas_agg.cli.main import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()
