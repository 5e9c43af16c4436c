"""MkDocs hook: pages may link to files of the repository outside docs/, such as ``../spaces/densenet.yaml``.

On the site such a file is a page or a download under ``repository/``; a folder is a page that lists its files.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PREFIX = "repository/"
ALWAYS = ("CONTRIBUTING.md", "CHANGELOG.md")  # pages of the navigation
LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page links to outside of docs/."""
    pages = [file for file in files if file.is_documentation_page()]
    targets = {name for page in pages for name in _targets(page.content_string, page.src_uri)} | set(ALWAYS)
    for target in sorted(targets):
        path = ROOT / target
        if path.is_dir():
            _add(files, File.generated(config, f"{PREFIX}{target}.md", content=_listing(path)))
            for child in _children(path):
                _add(files, File.generated(config, f"{PREFIX}{target}/{child.name}", abs_src_path=str(child)))
        elif path.suffix == ".md":
            text = path.read_text(encoding="utf-8").replace("](docs/", "](../")
            _add(files, File.generated(config, f"{PREFIX}{target}", content=text))
        else:
            _add(files, File.generated(config, f"{PREFIX}{target}", abs_src_path=str(path)))
    return files


def _add(files: Files, file: File) -> None:
    if file.src_uri not in files.src_uris:
        file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to the files that `on_files` added."""
    source = page.file.src_uri

    def replace(match: re.Match[str]) -> str:
        target = _outside(match[1], source)
        if target is None:
            return match[0]
        suffix = ".md" if (ROOT / target).is_dir() else ""
        return posixpath.relpath(f"{PREFIX}{target}{suffix}", posixpath.dirname(source) or ".")

    return LINK.sub(replace, markdown)


def _outside(link: str, source: str) -> str | None:
    """The path of a link's target in the repository if it is outside of docs/."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), link))
    return None if target.startswith("docs/") else target


def _targets(text: str, source: str) -> set[str]:
    return {target for match in LINK.finditer(text) if (target := _outside(match[1], source)) is not None}


def _children(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "__")))


def _listing(folder: Path) -> str:
    lines = "\n".join(f"- [{path.name}]({folder.name}/{path.name})" for path in _children(folder))
    return f"# {folder.relative_to(ROOT).as_posix()}\n\n{lines}\n"
