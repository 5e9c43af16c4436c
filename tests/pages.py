"""Reports as HTML parsers see them, and texts that must not become markup."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser

HOSTILE = ("<script>alert(1)</script>", "\u202eesrever", "a\"b'c&d<img src=x onerror=alert(1)>", "</script><b>")


class Page(HTMLParser):
    """Elements, scripts and texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._is_script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._is_script = tag == "script"
        if self._is_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._is_script = False

    def handle_data(self, data):
        if self._is_script:
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    def figures(self):
        return json.loads(self.scripts[0])["plots"]


def check(text: str) -> Page:
    """Check that a page needs nothing else, and that only its own scripts run."""
    page = Page(text)
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    assert len(page.scripts) == 3
    for script in page.scripts[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert policy.startswith("default-src 'none'") and "http" not in policy and "eval" not in policy
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "link", "base", "form")
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png")), (tag, attributes)
    assert "url(" not in text.partition("</style>")[0]
    assert len(text.encode()) < 8_000_000
    return page
