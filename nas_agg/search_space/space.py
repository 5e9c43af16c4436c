"""Search spaces: genotypes with open names.

A space is a text: a genotype whose ``open`` gives some names a range or a list of values, with named ``points``. A part
of another space says which one it is ``like``, gives some of its open names ``values`` and leaves others open to fewer.
What a search does with its points comes from its open names alone, see `nas_agg.search_space.parameters`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from nas_agg.common.errors import GenotypeError, GenotypeSyntaxError, InputError, did_you_mean
from nas_agg.common.files import read_document
from nas_agg.language.expressions import ExpressionError, parse
from nas_agg.language.genotype import Genotype, shown
from nas_agg.language.resolver import Resolver
from nas_agg.search_space.domains import Choice, parse_domain
from nas_agg.search_space.parameters import SearchVariables, Values
from nas_agg.search_space.table_settings import TableSettings

GROUP = "nas_agg.spaces"
SUFFIXES = (".yaml", ".yml", ".json")
MOST_OF_PART = 10_000
_OWN_FIELDS = ("about", "family", "min_input", "points", "search", "table")


@dataclass(frozen=True)
class SearchDefaults:
    """What a search of a space takes unless told otherwise; None: the space does not say.

    In a space file each may be an expression of the images: ``in`` is their channels, ``h`` their height.
    """

    max_macs: int | None = None
    max_params: int | None = None
    epochs: int | None = None


@dataclass(frozen=True)
class Point:
    """A named point: a value for each open name, and the task it was published for where that is not the space's."""

    values: Mapping[str, Any]
    classes: int | None = None
    input: tuple[int, int, int] | None = None


class Space(SearchVariables):
    """A genotype with open names.

    Args:
        text: The space as its file says it: a genotype's fields, ``open``, and optionally ``about``, ``family``,
            ``min_input``, ``points``, ``search`` and ``table``.
        name: What the space is called.
        folder: Where its file lies.

    Attributes:
        name: The space's own name.
        family: The name under which its points are addressed; its own unless the file says another.
        about: A line about the space.
        names: The open names.
        domains: The values of each open name.
        min_input: The smallest image side the space serves, or None.
        search_text: The space's own defaults for a search, as they are written.
        points: The named points.
        table: The file of a table with the results of its networks, which lies beside the space's, and the file's
            SHA-256; None: there is none.
        table_settings: How the networks of a table are trained.
        template: The genotype with its names open.

    Raises:
        InputError: One line that names the space and the field.
    """

    def __init__(self, text: Mapping[str, Any], name: str, folder: Path | None = None):
        self.name = name
        self._folder = folder
        try:
            self._read(text)
        except GenotypeError as error:
            raise InputError(f"{name}: {error}") from None

    def _read(self, text: Mapping[str, Any]) -> None:
        if not isinstance(text, Mapping):
            raise GenotypeError("a space is an object with the fields of a genotype and 'open'")
        names = text.get("open")
        if not isinstance(names, Mapping) or not names:
            raise GenotypeError("a space needs open names: {name: [values]} or {name: {from, to}}", "open")
        self.template = Genotype.read({k: v for k, v in text.items() if k not in _OWN_FIELDS})
        super().__init__({key: parse_domain(value, f"open.{key}") for key, value in names.items()})
        for key in self.names:
            if key in self.template.let:
                raise GenotypeError("also a name of 'let': it is either open or has a value", f"open.{key}")
        self._check_texts()
        self.about = _string(text, "about", "")
        self.family = _string(text, "family", self.name)
        self.min_input = _count(text.get("min_input"), "min_input")
        self.search_text = _search_text(text.get("search"))
        self.search_defaults(self.template.input)
        self.table, self.table_settings = self._read_table(text.get("table", {}))
        self.points: dict[str, Point] = {}
        for key, point in _object(text, "points").items():
            if not key or not key.isprintable() or "/" in key:
                raise GenotypeError(
                    f"{shown(key)} is no name of a point: it is empty, or has '/' or a line end in it", "points"
                )
            self.points[key] = self._read_point(point, f"points.{key}")

    def _check_texts(self) -> None:
        """Refuses a typo in the net or in a value at once, not at some sample of a search."""
        first = {key: values.at(0) for key, values in self.domains.items()}
        Resolver(self.template.fill(first)).network()
        for key, values in self.domains.items():
            for place in range(1, values.size) if isinstance(values, Choice) else ():
                try:
                    Resolver(self.template.fill({**first, key: values.at(place)})).network()
                except GenotypeSyntaxError as error:
                    raise GenotypeError(f"{error.problem} ({error.where})", f"open.{key}[{place}]") from None
                except GenotypeError:
                    continue  # not with the others' first values, but perhaps with some

    def _read_table(self, text: Any) -> tuple[tuple[Path, str] | None, TableSettings]:
        """The table's file, if there is one yet, and how its networks are trained."""
        if not isinstance(text, Mapping):
            raise GenotypeError(f"{shown(text)} is no table: write {{file: NAME, sha256: DIGEST}}", "table")
        file = {name: text[name] for name in ("file", "sha256") if name in text}
        settings = TableSettings.read({name: value for name, value in text.items() if name not in file})
        if not file:
            return None, settings
        if len(file) < 2 or not all(map(_is_text, file.values())):
            raise GenotypeError(f"{shown(text)} is no table: write {{file: NAME, sha256: DIGEST}}", "table")
        if self._folder is None or Path(file["file"]).name != file["file"]:
            raise GenotypeError(f"{shown(file['file'])} is no file beside the space's own", "table.file")
        return (self._folder / file["file"], file["sha256"]), settings

    def _read_point(self, point: Any, where: str) -> Point:
        """A point; what it does not say is that of the point it is like, which stands before it."""
        fields = ("like", "values", "classes", "input")
        if not isinstance(point, Mapping):
            raise GenotypeError(f"{shown(point)} is not a point: {{values: {{name: value}}}}", where)
        for key in point:
            if key not in fields:
                hint = did_you_mean(key, fields)
                raise GenotypeError(f"no such field here{hint}; a point has {', '.join(fields)}", f"{where}.{key}")
        base, like = Point({}), point.get("like")
        if like is not None:
            if not isinstance(like, str) or like not in self.points:
                hint = did_you_mean(like, self.points) if isinstance(like, str) else ""
                raise GenotypeError(f"{shown(like)} is no point before this one{hint}", f"{where}.like")
            base = self.points[like]
        if not isinstance(point.get("values", {} if like else None), Mapping):
            raise GenotypeError("a point needs 'values', an object of a value for each open name", where)
        size = point.get("input")
        if size is not None:
            if not isinstance(size, (list, tuple)) or len(size) != 3:
                raise GenotypeError(f"{shown(size)} is not [channels, height, width]", f"{where}.input")
            for place, side in enumerate(size):
                _count(side, f"{where}.input[{place}]")
        values = self.validate({**base.values, **point.get("values", {})}, f"{where}.values.")
        classes = _count(point.get("classes"), f"{where}.classes")
        return Point(values, classes or base.classes, tuple(size) if size else base.input)

    def __repr__(self) -> str:
        return f"Space({self.name!r})"

    def search_defaults(self, input: tuple[int, int, int]) -> SearchDefaults:
        """The space's own defaults for a search of images ``(channels, height, width)``.

        Raises:
            GenotypeError: One of them is no whole number of 1 or more there.
        """
        found = {}
        for name, value in self.search_text.items():
            try:
                number = parse(value).value({"in": input[0], "h": input[1]})
            except KeyError as error:
                raise GenotypeError(f"'{error.args[0]}' is not known here; in and h are", f"search.{name}") from None
            except ExpressionError as error:
                raise GenotypeError(str(error), f"search.{name}") from None
            found[name] = _count(number, f"search.{name}")
        return SearchDefaults(**found)

    def subspace(self, text: Mapping[str, Any], name: str, folder: Path | None = None) -> Space:
        """The space of those of its points that a text leaves.

        Args:
            text: ``values`` of some open names, and the others' own ``open`` (with neither, all stay open as they are);
                whatever else a space has replaces this space's, but for its points and its table, which are not the
                part's.
            name: What the part is called.
            folder: Where its file lies.

        Raises:
            InputError: An open name has two words or none, or a value that is not one of this space's.
        """
        try:
            given = _object(text, "values")
            left = _object(text if text.keys() & {"values", "open"} else self.template.text(), "open")
            for field in ("let", "net"):
                if field in text:
                    raise GenotypeError("a part of another space has that one's; leave it out", field)
            for key, values in left.items():
                if key in given:
                    raise GenotypeError("also under 'values': it is either open or has a value", f"open.{key}")
                own = parse_domain(values, f"open.{key}")
                if own.size > MOST_OF_PART:
                    raise GenotypeError(
                        f"{own.size:,} values; a part has up to {MOST_OF_PART:,} of a name", f"open.{key}"
                    )
                self._check_values(key, [own.at(place) for place in range(own.size)], f"open.{key}")
            for key, value in given.items():
                self._check_values(key, [value], f"values.{key}")
            for key in self.names:
                if key not in given and key not in left:
                    raise GenotypeError(f"{key} has neither a value nor values left open", "open")
        except GenotypeError as error:
            raise InputError(f"{name}: {error}") from None
        template = self.template.text()
        template["let"] = {**(template.get("let") or {}), **given}
        mine: dict[str, Any] = {"family": name, "min_input": self.min_input, "search": self.search_text, **template}
        mine |= {key: value for key, value in text.items() if key not in ("like", "values")}
        return Space(mine, name, folder)

    def _check_values(self, name: str, values: Sequence[Any], where: str) -> None:
        if name not in self.domains:
            raise GenotypeError(f"no open name of {self.name}{did_you_mean(name, self.names)}", where)
        for value in values:
            try:
                self.domains[name].index(value)
            except InputError as error:
                raise GenotypeError(str(error), where) from None

    # ---- values

    def genotype(
        self, values: Mapping[str, Any], input: tuple[int, int, int] | None = None, classes: int | None = None
    ) -> Genotype:
        """The genotype of a point, for a task's input ``(channels, height, width)`` and number of classes."""
        return self.template.fill(self.validate(values)).with_task(input=input, classes=classes)

    def point(self, name: str, input: tuple[int, int, int] | None = None, classes: int | None = None) -> Genotype:
        """The genotype of a named point, with its own input and classes unless told others."""
        if name not in self.points:
            hint = did_you_mean(name, self.points) or f"; its points are {', '.join(self.points) or 'none'}"
            raise InputError(f"{self.name} has no point '{name}'{hint}")
        point = self.points[name]
        return self.genotype(point.values, input or point.input, classes or point.classes)

    def values_of(self, genotype: Genotype) -> Values:
        """The values that make this space the genotype, whatever its input and classes.

        Raises:
            InputError: The genotype is not one of this space.
        """
        written, own = genotype.text(), self.template.text()
        let = dict(written.get("let") or {})
        values = {name: let.pop(name) for name in self.names if name in let}
        if let != (own.get("let") or {}) or written["net"] != own["net"]:
            raise InputError(f"this genotype is not one of the space {self.name}")
        return self.validate(values, "let.")


# ---- finding spaces


def list_spaces() -> list[str]:
    """The names of all installed spaces, sorted."""
    return sorted(_installed())


def open_space(name_or_path: str | os.PathLike[str]) -> Space:
    """A space by its name, or from a file of the user's own.

    Raises:
        InputError: There is no such space or file, or it is not a space.
    """
    text = os.fspath(name_or_path)
    found = _installed()
    if text in found:
        with importlib.resources.as_file(found[text]) as file:
            return _installed_space(file, text, file.stat().st_mtime_ns)
    path = Path(text)
    if path.suffix.lower() in SUFFIXES or "/" in text or os.sep in text or path.is_file():
        return _space(read_document(path), path.stem, path.parent)
    hint = did_you_mean(text, found) or f"; there are {', '.join(sorted(found)) or 'none'}"
    raise InputError(f"no space '{text}'{hint}, or name a YAML file")


@lru_cache(maxsize=64)
def _installed_space(file: Path, name: str, changed: int) -> Space:
    """A space that is opened again and again, as when points are listed; anew when its file has changed."""
    return _space(read_document(file), name, file.parent)


def _space(text: Any, name: str, folder: Path) -> Space:
    """The space of a file, or the part of another space that it is."""
    if not isinstance(text, Mapping) or "like" not in text:
        return Space(text, name, folder)
    like = text["like"]
    if not isinstance(like, str) or like not in _installed():
        raise InputError(f"{name}: like: {shown(like)} is no installed space{did_you_mean(str(like), _installed())}")
    if like == name:
        raise InputError(f"{name}: like: a space is no part of itself; name another")
    return open_space(like).subspace(text, name, folder)


def spaces_in_family(family: str) -> Iterator[Space]:
    """The installed spaces whose points are addressed by a name, their own or their family's; the likeliest first."""
    for name in sorted(_installed(), key=lambda name: (name != family, not name.startswith(family), name)):
        space = open_space(name)
        if family in (space.name, space.family):
            yield space


def _installed() -> dict[str, Traversable]:
    files: dict[str, Traversable] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            folder = importlib.resources.files(entry.value)
            found = [file for file in folder.iterdir() if file.name.lower().endswith(SUFFIXES)]
        except (ImportError, OSError, TypeError) as error:
            warnings.warn(f"the spaces of {entry.value} cannot be read: {error}", stacklevel=2)
            continue
        for file in found:
            # A package cannot take a name away from another: the first keeps it.
            files.setdefault(Path(file.name).stem, file)
    return files


# ---- fields of a space file


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _object(text: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = text.get(field)
    if value is not None and not isinstance(value, Mapping):
        raise GenotypeError(f"{shown(value)} is not an object", field)
    return value or {}


def _string(text: Mapping[str, Any], field: str, default: str) -> str:
    value = text.get(field, default)
    if not isinstance(value, str):
        raise GenotypeError(f"{shown(value)} is not text", field)
    return value.strip()


def _count(value: Any, where: str) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise GenotypeError(
            f"{value if isinstance(value, Fraction) else shown(value)} is not a whole number of 1 or more", where
        )
    return value


def _search_text(value: Any) -> dict[str, Any]:
    fields = SearchDefaults.__annotations__
    if value is not None and not isinstance(value, Mapping):
        raise GenotypeError(f"{shown(value)} is not an object", "search")
    for key in value or {}:
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise GenotypeError(f"no such field here{hint}; there are {', '.join(fields)}", f"search.{key}")
    return {key: given for key, given in (value or {}).items() if given is not None}
