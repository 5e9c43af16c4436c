"""Strict reading of JSON and of a safe subset of YAML, and atomic writing of files.

Nothing in a file is ever executed, and the work is bounded by the file's length: texts of more than ``MAX_CHARACTERS``
and values nested more than ``MAX_DEPTH`` levels deep are rejected before a value is built.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from nas_agg.common.durable import sync, temporary_path
from nas_agg.common.errors import InputError, NasAggError, did_you_mean

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 48
MAX_DIGITS = 400
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|nan)|-?infinity|nan", re.IGNORECASE)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` raised inside into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise NasAggError(f"{path}: cannot be written: {error.strerror}") from None


def check_replaceable(path: str | os.PathLike[str], suffix: str) -> None:
    """Refuse to replace a file of another kind, such as a record of a run.

    Args:
        path: The file to write, which need not exist.
        suffix: That of the files that may be replaced, such as ``.html``.

    Raises:
        InputError: It exists with another suffix.
    """
    if Path(path).suffix.lower() != suffix and Path(path).is_file():
        raise InputError(f"{path}: a file that exists and is no {suffix} file is not replaced; choose another name")


def write_atomic(
    path: str | os.PathLike[str], data: str | bytes, *, durable: bool = True, private: bool = False
) -> None:
    """Write a temporary file and rename it, so that readers see the old content or the new, never a part of it.

    Args:
        path: The file.
        data: Its content; a text is written as UTF-8.
        durable: Whether the content and then the name are on the disk when this returns; otherwise a power failure
            soon afterwards may lose both.
        private: Whether only the owner may read the file.

    Raises:
        NasAggError: The file cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"'{path}' is not a file name")
    temporary = temporary_path(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with open(descriptor, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        raise NasAggError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_document(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file (``.json``) or a YAML file (``.yaml``, ``.yml``).

    A file with another suffix is read as JSON if it begins with ``{``, else as YAML.

    Raises:
        InputError: The file cannot be read, or is not strict JSON or safe YAML; the message names the file.
    """
    path = Path(path)
    kind: Literal["json", "yaml"] | None = None
    if path.suffix.lower() == ".json":
        kind = "json"
    elif path.suffix.lower() in (".yaml", ".yml"):
        kind = "yaml"
    return parse_document(_text(path), str(path), kind)


def parse_document(text: str, name: str, kind: Literal["json", "yaml"] | None = None) -> Any:
    """Parse JSON or YAML into null, booleans, numbers, strings, lists and string-keyed dictionaries.

    Args:
        text: JSON or YAML.
        name: Name of the text in error messages, usually the file.
        kind: ``"json"`` or ``"yaml"``; by default a text that begins with ``{`` is JSON and any other is YAML.

    Raises:
        InputError: The text is malformed, or contains something that is not allowed.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{name}: file is longer than {MAX_CHARACTERS:,} characters")
    kind = kind or ("json" if text.lstrip().startswith("{") else "yaml")
    try:
        value = _json(text) if kind == "json" else _yaml(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{name}: contains an unpaired surrogate, which is not a character") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return value


def canonical_json(value: Any) -> str:
    """Serialize a value as compact JSON with sorted keys, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def check_uncompressed(path: str | os.PathLike[str] | IO[bytes]) -> None:
    """Reject a zip archive with compressed members, which could expand to any size.

    Raises:
        ValueError: The file is such an archive; those of ``torch.save`` are not compressed.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("a compressed archive, which torch.save does not write")


def check_regular_file(path: str | os.PathLike[str]) -> None:
    """Reject pipes and devices, which could block forever; other problems are left to the reader.

    Raises:
        InputError: The path is a pipe or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a pipe or a device, not a file")


def _text(path: Path) -> str:
    check_regular_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_CHARACTERS + 4)
        return data.decode("utf-8-sig")
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not a file") from None
    except FileNotFoundError:
        siblings: list[str] = []
        with contextlib.suppress(OSError):
            siblings = os.listdir(path.parent)
        raise InputError(f"{path}: no such file{did_you_mean(path.name, siblings)}") from None
    except UnicodeDecodeError as error:
        if len(data) > 4 * MAX_CHARACTERS:
            raise InputError(f"{path}: file is longer than {MAX_CHARACTERS:,} characters") from None
        raise InputError(f"{path}: not valid UTF-8 (byte {error.start})") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


# ---- JSON


def _json(text: str) -> Any:
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
                _check_depth(depth, f"line {text.count(chr(10), 0, token.start()) + 1}: " if depth > MAX_DEPTH else "")
            case "]" | "}":
                depth -= 1
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_float, parse_int=_int
        )
    except json.JSONDecodeError as error:
        problem = error.msg[0].lower() + error.msg[1:]
        raise InputError(f"line {error.lineno}, column {error.colno}: not JSON: {problem}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise InputError(f"duplicate key {_shorten(counts.most_common(1)[0][0])}")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise InputError(f"{text} is not allowed; numbers must be finite")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"number {_shorten(text)} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise InputError(f"number {_shorten(text)} is too large")
    return int(text)


def _check_depth(depth: int, where: str) -> None:
    if depth > MAX_DEPTH:
        raise InputError(f"{where}{_TOO_DEEP}")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


# ---- YAML


class _ValueBuilder:
    """Builds a value from parser events with an explicit stack, so that nesting cannot exhaust Python's."""

    def __init__(self) -> None:
        self.open: list[list[Any] | dict[str, Any]] = []
        self.keys: list[str | None] = []  # for each open collection, the key whose value comes next
        self.value: Any = None

    def begin(self, collection: list[Any] | dict[str, Any], where: str) -> None:
        if self.open and isinstance(self.open[-1], dict) and self.keys[-1] is None:
            raise InputError(f"{where}keys must be strings")
        self.add(collection, where)
        self.open.append(collection)
        self.keys.append(None)
        _check_depth(len(self.open), where)

    def end(self) -> None:
        self.open.pop()
        self.keys.pop()

    def add(self, value: Any, where: str) -> None:
        if not self.open:
            self.value = value
            return
        parent, key = self.open[-1], self.keys[-1]
        if isinstance(parent, list):
            parent.append(value)
        elif key is not None:
            parent[key] = value
            self.keys[-1] = None
        elif not isinstance(value, str):
            text = canonical_json(value)
            raise InputError(f'{where}keys must be strings; quote it: "{text}"')
        elif value in parent:
            raise InputError(f"{where}duplicate key {_shorten(value)}")
        else:
            self.keys[-1] = value


def _yaml(text: str) -> Any:
    import yaml  # imported late, since most runs read only JSON

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _build(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        where = _where(error.problem_mark) if error.problem_mark else ""
        if "nesting depth" in (error.problem or ""):  # libyaml reads ahead and has a limit of its own
            raise InputError(f"{where}{_TOO_DEEP}") from None
        raise InputError(f"{where}not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError("not YAML: " + " ".join(str(error).split())) from None


def _build(events: Iterable[Any]) -> Any:
    import yaml

    builder, documents = _ValueBuilder(), 0
    for event in events:
        where = _where(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{where}anchors and aliases are not allowed; repeat the text, or name it in 'let'")
        if getattr(event, "tag", None):
            raise InputError(f"{where}tags are not allowed")
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise InputError(f"{where}only one document per file is allowed")
        elif isinstance(event, yaml.MappingStartEvent):
            builder.begin({}, where)
        elif isinstance(event, yaml.SequenceStartEvent):
            builder.begin([], where)
        elif isinstance(event, yaml.CollectionEndEvent):
            builder.end()
        elif isinstance(event, yaml.ScalarEvent):
            builder.add(_scalar(event.value, where) if event.implicit[0] else event.value, where)
    if not documents:
        raise InputError("file is empty")
    return builder.value


def _scalar(text: str, where: str) -> Any:
    """Convert an unquoted YAML scalar by JSON's rules; anything else (``yes``, ``0x10``, a date) is a string."""
    if text in ("", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    try:
        if _NOT_FINITE.fullmatch(text):
            _refuse_constant(text)
        if _INT.fullmatch(text):
            return _int(text)
        if _NUMBER.fullmatch(text):
            return _float(text)
    except InputError as error:
        raise InputError(f"{where}{error}") from None
    return text


def _where(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: "
