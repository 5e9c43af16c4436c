"""Reports of runs as HTML pages that need no network: sections are made of figures, tables and drawings."""
