"""Optuna storages: opened by URL or in a run folder, and used by several processes at once."""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from nas_agg.common.errors import InputError, NasAggError, one_line
from nas_agg.study.definition.objectives import Objectives
from nas_agg.study.definition.signals import shielded
from nas_agg.study.definition.trial import OWN
from nas_agg.study.records.journal import JOURNAL, RunJournal
from nas_agg.study.samplers.searcher import describe_exception

GRPC = "grpc://"
_VARIABLE = re.compile(r"\$\{?(\w+)")
PROXY_TIMEOUT = 10.0  # seconds within which a gRPC proxy must answer
SCHEMA_TIMEOUT = 60.0  # seconds to try to make the tables of a database while others do so
SCHEMA_PAUSE = 0.25  # seconds between two tries
SQLITE_TIMEOUT = 60.0  # seconds that a process waits for others that write to an SQLite file


class StorageFailed(NasAggError):
    """A storage failed during a search, which can be resumed once it works again."""


def open_storage(url: str | None, folder: Path, must_exist: bool = False, for_worker: bool = False) -> BaseStorage:
    """Open the storage of a URL, or the journal file of a run folder.

    Args:
        url: Any URL that Optuna accepts, or ``grpc://HOST:PORT`` of its gRPC proxy; ``$NAME`` in it is an environment
            variable. ``None`` is the journal file.
        folder: The run folder.
        must_exist: Whether the database must hold studies already; then nothing is created.
        for_worker: Whether single trials are read, in as few queries as possible and over one connection, by a caller
            that tries again if the connection is lost.

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
            _check_schema(full_url)
        # The server may have been restarted since the last call.
        options: dict[str, Any] = {"pool_size": 1} if for_worker else {"pool_pre_ping": True}
        if full_url.startswith("sqlite"):
            options = {"connect_args": {"timeout": SQLITE_TIMEOUT}}
        if for_worker:
            # Without Optuna's cache, which reads whole trials where attributes are asked for.
            return _open_database(full_url, options)
        return optuna.storages.get_storage(_open_database(full_url, options))


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


def stored_trials(storage: BaseStorage, study_id: int, storage_name: str) -> list[FrozenTrial]:
    """Read all trials of a study, by number.

    Raises:
        InputError: The storage cannot be read, a trial is missing, or one was not created by nas_agg.
    """
    with storage_errors("cannot be read", storage_name, InputError):
        trials = sorted(storage.get_all_trials(study_id), key=lambda trial: trial.number)
    for number, trial in enumerate(trials):
        if trial.number != number:
            raise InputError(f"{storage_name}: trial {number} is missing; restore it, or choose another --out")
        if trial.state == TrialState.WAITING or OWN + "hash" not in trial.user_attrs:
            raise InputError(f"trial {number} of the study was not created by nas_agg")
    return trials


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


def _open_database(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    """Open a database, and make Optuna's tables if there are none.

    Two processes that do so at the same time disturb each other: one of them fails, and succeeds once the other has.
    """
    end = time.monotonic() + SCHEMA_TIMEOUT
    while True:
        try:
            return RDBStorage(url, engine_kwargs=engine_kwargs)
        except Exception as error:
            if not _is_schema_race(error) or time.monotonic() >= end:
                raise
        time.sleep(SCHEMA_PAUSE * random.uniform(0.5, 1.5))


def _is_schema_race(error: BaseException | None) -> bool:
    """Whether a table or a row could not be made because another process has just made it."""
    while error is not None:
        if isinstance(error, sqlalchemy.exc.IntegrityError):
            return True
        text = str(error).lower()
        if isinstance(error, sqlalchemy.exc.DBAPIError) and ("already exists" in text or "deadlock" in text):
            return True
        error = error.__cause__ or error.__context__
    return False


def _check_schema(url: str) -> None:
    """Raise an InputError unless a database has Optuna's tables, complete; nothing is written to it."""
    engine = sqlalchemy.create_engine(url)
    if engine.dialect.name == "sqlite" and engine.url.database and not Path(engine.url.database).exists():
        raise InputError(f"{url}: no such file")
    try:
        # The version of the schema is written last.
        if not sqlalchemy.inspect(engine).has_table("alembic_version"):
            raise InputError(f"{url}: holds no search yet")
        with engine.connect() as connection:
            if connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).first() is None:
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
    problem: str, storage_name: str = "the storage", kind: type[NasAggError] | None = None
) -> Iterator[None]:
    """Convert any exception of a storage into an error of one line; signals wait until the end of the block.

    Args:
        problem: What failed, such as ``cannot be read``.
        storage_name: The storage's name in the message.
        kind: The class of the error; by default `StorageFailed`.
    """
    try:
        with shielded():
            yield
    except NasAggError:
        raise
    except Exception as error:  # a storage is a plug-in of Optuna's and raises what its driver raises
        raise (kind or StorageFailed)(f"{storage_name} {problem}: {_describe_storage_error(error)}") from error


def _describe_storage_error(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:  # Optuna's own text speaks of invalid data whatever happened
        if isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.orig is not None:
            return one_line(f"{type(cause.orig).__name__}: {' '.join(str(cause.orig).split())}")
        cause = cause.__cause__ or cause.__context__
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
