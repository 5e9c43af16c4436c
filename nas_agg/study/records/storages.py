"""Optuna storages: opened by URL or in a run folder, and used by several processes at once."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from optuna.trial import FrozenTrial

from nas_agg.common.errors import InputError, NasAggError, one_line
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.signals import shielded
from nas_agg.study.records.journal import JOURNAL, RunJournal
from nas_agg.study.samplers.searcher import describe_exception

GRPC = "grpc://"
_VARIABLE = re.compile(r"\$\{?(\w+)")
PROXY_TIMEOUT = 10.0  # seconds within which a gRPC proxy must answer
SQLITE_TIMEOUT = 60.0  # seconds that a process waits for others that write to an SQLite file


def open_storage(url: str | None, folder: Path, must_exist: bool = False) -> BaseStorage:
    """Open the storage of a URL, or the journal file of a run folder.

    Args:
        url: Any URL that Optuna accepts, or ``grpc://HOST:PORT`` of its gRPC proxy; ``$NAME`` in it is an environment
            variable. ``None`` is the journal file.
        folder: The run folder.
        must_exist: Whether the database must hold studies already; then nothing is created.

    Raises:
        InputError: The URL cannot be opened as a storage, or the journal cannot be read.
    """
    if url is None:
        path = folder / JOURNAL
        with storage_errors("cannot be read", str(path), InputError):
            return RunJournal(path)
    with storage_errors("cannot be opened", url, InputError), silence_optuna():
        full_url = _expand_url(url)
        if full_url.startswith(GRPC):
            return _connect_proxy(full_url)
        if must_exist:
            _check_has_studies(full_url)
        options: dict[str, Any] = {"pool_pre_ping": True}  # the server may have been restarted since the last call
        if full_url.startswith("sqlite"):
            options = {"connect_args": {"timeout": SQLITE_TIMEOUT}}
        return optuna.storages.get_storage(RDBStorage(full_url, engine_kwargs=options))


def find_or_create_study(
    storage: BaseStorage, name: str, must_exist: bool, objectives: Objectives, storage_name: str
) -> int:
    """The ID of the study of this name; it is created unless it must exist.

    Args:
        storage: The storage.
        name: The study's name.
        must_exist: Whether the storage must hold the study already.
        objectives: The study's objectives.
        storage_name: The storage's name in error messages.

    Raises:
        InputError: The study must exist and does not, or the storage cannot be used.
    """
    with silence_optuna(), storage_errors("cannot be used", storage_name):
        try:
            return storage.get_study_id_from_name(name)
        except KeyError:
            if must_exist:
                raise InputError(f"{storage_name}: the study is missing; restore it, or choose another --out") from None
            study = optuna.create_study(study_name=name, storage=storage, directions=objectives.directions)
            study.set_metric_names(list(objectives.names))
            return storage.get_study_id_from_name(name)


def store_differences(storage: BaseStorage, trial_id: int, trial: FrozenTrial) -> None:
    """Write the reports and attributes of a trial that differ from those in the storage."""
    stored = storage.get_trial(trial_id)
    for step, value in trial.intermediate_values.items():
        if stored.intermediate_values.get(step) != value:
            storage.set_trial_intermediate_value(trial_id, step, value)
    for key, attr in trial.user_attrs.items():
        if stored.user_attrs.get(key) != attr:
            storage.set_trial_user_attr(trial_id, key, attr)
    for key, attr in trial.system_attrs.items():
        if stored.system_attrs.get(key) != attr:
            storage.set_trial_system_attr(trial_id, key, attr)


def _expand_url(url: str) -> str:
    """A URL with its environment variables replaced by their values.

    Raises:
        InputError: A variable is not set, it is not a URL, or it names a database in memory.
    """
    full_url = os.path.expandvars(url)
    for name in _VARIABLE.findall(url):
        if name not in os.environ:
            raise InputError(f"{url}: the environment variable {name} is not set")
    if "://" not in full_url:
        raise InputError(
            f"{url}: not a URL; use for example sqlite:///FILE, postgresql+psycopg://... or grpc://HOST:PORT"
        )
    if full_url.startswith("sqlite") and full_url.partition("://")[2].partition("?")[0] in ("", "/", "/:memory:"):
        raise InputError(f"{url}: a database in memory is lost when the process ends; name a file: sqlite:///study.db")
    return full_url


def _check_has_studies(url: str) -> None:
    """Raise an InputError if a database has no studies; nothing is written to it."""
    engine = sqlalchemy.create_engine(url)
    if engine.dialect.name == "sqlite" and engine.url.database and not Path(engine.url.database).exists():
        raise InputError(f"{url}: no such file")
    try:
        if not sqlalchemy.inspect(engine).has_table("studies"):
            raise InputError(f"{url}: holds no search yet")
    finally:
        engine.dispose()


def _connect_proxy(url: str) -> GrpcStorageProxy:
    host, colon, port = url.removeprefix(GRPC).rstrip("/").rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise InputError(f"{url}: use the form grpc://HOST:PORT")
    try:
        for module in ("grpc", "google.protobuf"):
            import_module(module)
    except ImportError:
        raise InputError(f"{url}: grpcio and protobuf are not installed: pip install 'nas-agg[grpc]'") from None
    proxy = GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(PROXY_TIMEOUT)
    except ConnectionError:
        proxy.close()
        raise InputError(f"{url}: no server responds within {PROXY_TIMEOUT:g} s") from None
    return proxy


@contextlib.contextmanager
def storage_errors(
    problem: str, storage_name: str = "the storage", kind: type[NasAggError] = NasAggError
) -> Iterator[None]:
    """Convert any exception of a storage into an error of one line; signals wait until the end of the block.

    Args:
        problem: What failed, such as ``cannot be read``.
        storage_name: The storage's name in the message.
        kind: The class of the error.
    """
    try:
        with shielded():
            yield
    except NasAggError:
        raise
    except Exception as error:  # a storage is a plug-in of Optuna's and raises what its driver raises
        raise kind(f"{storage_name} {problem}: {_describe_storage_error(error)}") from error


def _describe_storage_error(error: Exception) -> str:
    details = getattr(error, "details", None)  # gRPC's errors have it, and their texts are pages long
    if callable(details):
        return one_line(f"{type(error).__name__.lstrip('_')}: {details()}")
    return describe_exception(error)


@contextlib.contextmanager
def silence_optuna() -> Iterator[None]:
    """Suppress Optuna's log messages and all warnings."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
