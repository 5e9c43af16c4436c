"""Passwords in URLs of databases, which are used but never kept."""

from __future__ import annotations

import re

_VARIABLE = r"\$\{?\w+\}?"  # expanded when the URL is used; not a password itself
_AFTER_USER = re.compile(rf"(?<=://)([^/\s:@]*):(?!{_VARIABLE}@)\S*@")
_NAME = r"[^=&?#\s]*(?:passw|pwd|secret|token)[^=&?#\s]*"
_QUERY = re.compile(rf"([?&]){_NAME}=(?!{_VARIABLE}(?:&|$))[^&#\s]*", re.IGNORECASE)


def without_password(url: str) -> str:
    """A URL without the passwords in it: after the user's name, and in its query."""
    url = _QUERY.sub(lambda match: match[1], _AFTER_USER.sub(lambda match: f"{match[1]}@", url))
    return re.sub(r"\?&+", "?", re.sub(r"&{2,}", "&", url)).rstrip("?&")


def has_password(url: str) -> bool:
    """Whether a URL contains a password."""
    return without_password(url) != url
