"""Where studies are kept: opened by a URL or in a run's folder, by several processes at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from io import BufferedRandom
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from nas_agg.common.errors import InputError, NasAggError, one_line
from nas_agg.study.definition.signals import shielded
from nas_agg.study.samplers.searcher import describe_exception

JOURNAL = "study.journal"
GRPC = "grpc://"
_VARIABLE = re.compile(r"\$\{?(\w+)")
READY = 10.0  # seconds in which a proxy must answer
BUSY = 60.0  # seconds that a process waits for others who write to an SQLite file


def open_storage(url: str | None, folder: Path, must_exist: bool = False) -> BaseStorage:
    """The storage of a URL, else the journal file of a run folder.

    Args:
        url: Any of Optuna's, or ``grpc://HOST:PORT`` of its gRPC proxy; ``$NAME`` in it is a variable of the
            environment.
        folder: The run's.
        must_exist: Whether there must be studies in it already: nothing is made then.

    Raises:
        InputError: The URL is no storage that can be opened, or the journal cannot be read.
    """
    if url is None:
        path = folder / JOURNAL
        with storage_errors("cannot be read", str(path), InputError):
            lock = _Lock(path)
            journal = JournalFileBackend(str(path), lock_obj=lock)
            lock.acquire()  # mends it
            lock.release()
            return JournalStorage(journal)
    with storage_errors("cannot be opened", url, InputError), silence_optuna():
        full = _full(url)
        if full.startswith(GRPC):
            return _proxy(full)
        if must_exist:
            _check_begun(full)
        # A server may have been started anew since the last call.
        more = {"connect_args": {"timeout": BUSY}} if full.startswith("sqlite") else {"pool_pre_ping": True}
        return optuna.storages.get_storage(RDBStorage(full, engine_kwargs=more))


def _full(url: str) -> str:
    """A URL with the variables of the environment in it filled in.

    Raises:
        InputError: A variable is not set, or it is no URL, or that of a database that nobody keeps.
    """
    full = os.path.expandvars(url)
    for name in _VARIABLE.findall(url):
        if name not in os.environ:
            raise InputError(f"{url}: the variable {name} is not set")
    if "://" not in full:
        raise InputError(
            f"{url}: no URL; write one such as sqlite:///FILE, postgresql+psycopg://... or grpc://HOST:PORT"
        )
    if full.startswith("sqlite") and full.partition("://")[2].partition("?")[0] in ("", "/", "/:memory:"):
        raise InputError(f"{url}: kept in memory alone; name a file: sqlite:///study.db")
    return full


def _check_begun(url: str) -> None:
    """Refuses a database without studies, before anything is written to it."""
    engine = sqlalchemy.create_engine(url)
    if engine.dialect.name == "sqlite" and engine.url.database and not Path(engine.url.database).exists():
        raise InputError(f"{url}: no such file")
    try:
        if not sqlalchemy.inspect(engine).has_table("studies"):
            raise InputError(f"{url}: holds no search yet")
    finally:
        engine.dispose()


def _proxy(url: str) -> GrpcStorageProxy:
    host, colon, port = url.removeprefix(GRPC).rstrip("/").rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise InputError(f"{url}: write grpc://HOST:PORT")
    try:
        for needed in ("grpc", "google.protobuf"):
            import_module(needed)
    except ImportError:
        raise InputError(f"{url}: needs grpcio and protobuf: pip install 'nas-agg[grpc]'") from None
    proxy = GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(READY)
    except ConnectionError:
        proxy.close()
        raise InputError(f"{url}: nobody answers there within {READY:g} s") from None
    return proxy


class _Lock(JournalFileOpenLock):
    """Lets one process at a time write to a journal.

    It is a lock of the kernel's, on the journal itself: it is free as soon as its holder is dead. What a kill in the
    middle of a write left of a line is removed by the next who writes.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: BufferedRandom | None = None

    def acquire(self) -> bool:
        file = self._path.open("rb+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            _mend(file)
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _mend(file: BufferedRandom) -> None:
    """Remove a last line that has no end."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


@contextlib.contextmanager
def storage_errors(what: str, name: str = "the storage", kind: type[NasAggError] = NasAggError) -> Iterator[None]:
    """Whatever a storage raises, as one line; a signal waits until it is done."""
    try:
        with shielded():
            yield
    except NasAggError:
        raise
    except Exception as error:  # a storage is a plug-in of Optuna's and raises what its driver raises
        raise kind(f"{name} {what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    details = getattr(error, "details", None)  # gRPC's errors have it, and are pages long
    if callable(details):
        return one_line(f"{type(error).__name__.lstrip('_')}: {details()}")
    return describe_exception(error)


@contextlib.contextmanager
def silence_optuna() -> Iterator[None]:
    """Without Optuna's remarks on standard error."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
