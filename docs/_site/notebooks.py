"""MkDocs hook: a notebook below docs/ is a page with its cells and their saved outputs, and a download."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook."""
    for file in [*files]:
        if file.src_uri.endswith(".ipynb"):
            name = PurePosixPath(file.src_uri)
            text = page(json.loads(file.content_string), name.name)
            files.append(File.generated(config, str(name.with_suffix(".md")), content=text))
    return files


def page(notebook: dict[str, Any], name: str) -> str:
    """A notebook as Markdown.

    Args:
        notebook: The contents of its file.
        name: The name of its file.
    """
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"(\]\([\w./-]+)\.ipynb\)", r"\1.md)", text))
        else:
            parts += [f"```python\n{text}\n```", *map(output, cell["outputs"])]
    parts.insert(1, f"[Download the notebook]({name}){{: download }}")
    return "\n\n".join(part for part in parts if part) + "\n"


def output(value: dict[str, Any]) -> str:
    """An output of a cell: HTML as it is, text as text."""
    data = value.get("data", {})
    if "text/html" in data:
        lines = [line for line in "".join(data["text/html"]).splitlines() if line.strip()]
        return f'<div class="output" markdown="0">\n{chr(10).join(lines)}\n</div>'
    text = ANSI.sub("", "".join(value.get("text") or data.get("text/plain", ""))).replace("\r", "").strip("\n")
    return f"```text\n{text}\n```" if text else ""
