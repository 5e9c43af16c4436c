"""A PostgreSQL server of a test's own, on a socket in a folder of its own, where its programs are installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _program(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def _user() -> str | None:
    """Who the server runs as: it refuses to be root's."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), "nobody")


@contextlib.contextmanager
def postgres(options: str = "") -> Iterator[str]:
    """The URL of a fresh database; skips the test where there is no PostgreSQL, or no driver for it.

    Args:
        options: Further options of the server, such as ``-c max_connections=200``.
    """
    initdb, control = _program("initdb"), _program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("PostgreSQL is not installed (initdb, pg_ctl)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="nas_agg-pg-"))
    if user is not None:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            subprocess.run(command, check=True, user=user, cwd=folder, stdout=log, stderr=log, timeout=60)

    data = str(folder / "data")
    try:
        run(initdb, "-D", data, "-A", "trust", "-U", "nas", "--no-sync", "-E", "UTF8", "--locale", "C")
        run(control, "-D", data, "-w", "-l", f"{data}/log", "-o", f"-k {folder} -h '' -F {options}", "start")
        try:
            yield f"postgresql+psycopg://nas@/postgres?host={folder}"
        finally:
            run(control, "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.log").unlink(missing_ok=True)
