"""Passwords in URLs."""

from __future__ import annotations

import pytest

from nas_agg.common.urls import has_password, without_password


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql+psycopg://nas:secret@db/nas", "postgresql+psycopg://nas@db/nas"),
        ("postgresql://nas:se:cr@et@db/nas", "postgresql://nas@db/nas"),
        ("postgresql://nas@db/nas?password=abc&host=/tmp", "postgresql://nas@db/nas?host=/tmp"),
        ("mysql+pymysql://h/nas?a=1&passwd=abc", "mysql+pymysql://h/nas?a=1"),
        ("postgresql://nas@db/nas?sslpassword=abc", "postgresql://nas@db/nas"),
    ],
)
def test_passwords_are_left_out(url, kept):
    assert without_password(url) == kept and has_password(url) and not has_password(kept)


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://nas:$NAS_PASSWORD@db/nas", "postgresql://nas:${NAS}@db/nas", "postgresql://db/nas?password=$P"),
        *("sqlite:////tmp/a b.db", "grpc://host:13000", "postgresql://nas@/postgres?host=/tmp/x"),
    ],
)
def test_variables_and_urls_without_a_password_are_kept(url):
    assert without_password(url) == url and not has_password(url)
