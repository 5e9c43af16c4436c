"""Search spaces: genotypes with search variables.

A space file is a genotype whose field ``open`` declares search variables, each with a range or a list of values, and
whose field ``points`` names points. A subspace refers to another space by ``like``, fixes some of its variables by
``values`` and may restrict the domains of the others. Operations on points depend on the variables alone, see
`nas_agg.search_space.parameters`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from nas_agg.common.errors import GenotypeError, GenotypeSyntaxError, InputError, did_you_mean
from nas_agg.common.files import read_document
from nas_agg.language.expressions import ExpressionError, parse_expression
from nas_agg.language.genotype import Genotype, format_value
from nas_agg.language.resolver import Resolver
from nas_agg.search_space.domains import Choice, parse_domain
from nas_agg.search_space.parameters import SearchVariables, Values
from nas_agg.search_space.space_fields import (
    Point,
    SearchDefaults,
    is_text,
    read_count,
    read_object,
    read_point,
    read_search_text,
    read_string,
)
from nas_agg.search_space.table_settings import TableSettings

GROUP = "nas_agg.spaces"
SUFFIXES = (".yaml", ".yml", ".json")
MAX_SUBSPACE_DOMAIN = 10_000
MAX_CHECKED_CHARACTERS = 20_000_000  # of the genotype, once per listed value: a few seconds
_SPACE_FIELDS = ("about", "family", "min_input", "points", "search", "table")


class Space(SearchVariables):
    """A search space: a genotype with search variables.

    Args:
        text: The content of a space file: the fields of a genotype, ``open``, and optionally ``about``, ``family``,
            ``min_input``, ``points``, ``search`` and ``table``.
        name: The name of the space.
        folder: The folder of its file.

    Attributes:
        name: The name of the space.
        family: The name by which its points are referred to; by default that of the space.
        about: A description in one line.
        names: The search variables.
        domains: The domain of each search variable.
        min_input: The smallest supported side of images in pixels; None: unspecified.
        search_text: The default settings of a search, as written in the file.
        points: The named points.
        table: The file of the table of results, in the folder of the space file, and its SHA-256; None: no table.
        table_settings: Training and evaluation of the networks of a table.
        template: The genotype with its search variables.

    Raises:
        InputError: The text is invalid; the message names the space and the field.
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
            raise GenotypeError("a search space is an object with the fields of a genotype and 'open'")
        names = text.get("open")
        if not isinstance(names, Mapping) or not names:
            raise GenotypeError("a search space needs search variables: {name: [values]} or {name: {from, to}}", "open")
        self.template = Genotype.from_dict({k: v for k, v in text.items() if k not in _SPACE_FIELDS})
        super().__init__({key: parse_domain(value, f"open.{key}") for key, value in names.items()})
        for key in self.names:
            if key in self.template.let:
                raise GenotypeError("also in 'let'; a name is either a search variable or has a value", f"open.{key}")
        self._check_texts()
        self.about = read_string(text, "about", "")
        self.family = read_string(text, "family", self.name)
        self.min_input = read_count(text.get("min_input"), "min_input")
        self.search_text = read_search_text(text.get("search"))
        self.search_defaults(self.template.input)
        self.table, self.table_settings = self._read_table(text.get("table", {}))
        self.points: dict[str, Point] = {}
        for key, point in read_object(text, "points").items():
            if not key or not key.isprintable() or "/" in key:
                raise GenotypeError(
                    f"invalid point name {format_value(key)}: it is empty, or contains '/' or a line break", "points"
                )
            self.points[key] = read_point(point, f"points.{key}", self.points, self.validate)

    def _check_texts(self) -> None:
        """Reject errors in the net and in each listed value at once, rather than at some sample of a search."""
        first = {key: values.at(0) for key, values in self.domains.items()}
        Resolver(self.template.fill(first)).network()
        others = [
            (key, place)
            for key, values in self.domains.items()
            if isinstance(values, Choice)
            for place in _places_to_check(values)
        ]
        if len(others) * len(self.template.to_json()) > MAX_CHECKED_CHARACTERS:
            raise GenotypeError("too many listed values for a text of this length; use fewer, or a range", "open")
        for key, place in others:
            try:
                Resolver(self.template.fill({**first, key: self.domains[key].at(place)})).network()
            except GenotypeSyntaxError as error:
                raise GenotypeError(f"{error.problem} ({error.where})", f"open.{key}[{place}]") from None
            except GenotypeError:
                continue  # invalid with the first values of other variables, but perhaps valid with others

    def _read_table(self, text: Any) -> tuple[tuple[Path, str] | None, TableSettings]:
        """The file of the table with its SHA-256, if there is one, and the settings of the table."""
        if not isinstance(text, Mapping):
            raise GenotypeError(f"{format_value(text)} is not a table; write {{file: NAME, sha256: DIGEST}}", "table")
        file = {name: text[name] for name in ("file", "sha256") if name in text}
        settings = TableSettings.read({name: value for name, value in text.items() if name not in file})
        if not file:
            return None, settings
        if len(file) < 2 or not all(map(is_text, file.values())):
            raise GenotypeError(f"{format_value(text)} is not a table; write {{file: NAME, sha256: DIGEST}}", "table")
        if self._folder is None or Path(file["file"]).name != file["file"]:
            raise GenotypeError(
                f"{format_value(file['file'])} is not the name of a file in the folder of the space file", "table.file"
            )
        return (self._folder / file["file"], file["sha256"]), settings

    def __repr__(self) -> str:
        return f"Space({self.name!r})"

    def search_defaults(self, input: tuple[int, int, int]) -> SearchDefaults:
        """The default settings of a search on images of a shape ``(channels, height, width)``.

        Raises:
            GenotypeError: A setting is not a positive integer for this shape.
        """
        defaults = {}
        for name, value in self.search_text.items():
            try:
                number = parse_expression(value).value({"in": input[0], "h": input[1]})
            except KeyError as error:
                raise GenotypeError(f"unknown name '{error.args[0]}'; available: in, h", f"search.{name}") from None
            except ExpressionError as error:
                raise GenotypeError(str(error), f"search.{name}") from None
            defaults[name] = read_count(number, f"search.{name}")
        return SearchDefaults(**defaults)

    def subspace(self, text: Mapping[str, Any], name: str, folder: Path | None = None) -> Space:
        """A subspace, in which some search variables are fixed or have fewer values.

        Args:
            text: ``values`` of the fixed variables and ``open`` for the others; without both, all variables keep their
                domains. Other fields replace those of this space. Its points and its table are not inherited.
            name: The name of the subspace.
            folder: The folder of its file.

        Raises:
            InputError: A variable is both fixed and open, or neither, or has a value that is not in its domain here.
        """
        try:
            fixed = read_object(text, "values")
            restricted = read_object(text if text.keys() & {"values", "open"} else self.template.to_dict(), "open")
            for field in ("let", "net"):
                if field in text:
                    raise GenotypeError("inherited from the space under 'like'; leave it out", field)
            for key, values in restricted.items():
                if key in fixed:
                    raise GenotypeError(
                        "also under 'values'; a name is either a search variable or has a value", f"open.{key}"
                    )
                domain = parse_domain(values, f"open.{key}")
                if domain.size > MAX_SUBSPACE_DOMAIN:
                    raise GenotypeError(
                        f"{domain.size:,} values; a subspace allows {MAX_SUBSPACE_DOMAIN:,} per variable", f"open.{key}"
                    )
                self._check_values(key, [domain.at(index) for index in range(domain.size)], f"open.{key}")
            for key, value in fixed.items():
                self._check_values(key, [value], f"values.{key}")
            for key in self.names:
                if key not in fixed and key not in restricted:
                    raise GenotypeError(f"search variable '{key}' is missing here and under 'values'", "open")
        except GenotypeError as error:
            raise InputError(f"{name}: {error}") from None
        template = self.template.to_dict()
        template["let"] = {**(template.get("let") or {}), **fixed}
        fields: dict[str, Any] = {"family": name, "min_input": self.min_input, "search": self.search_text, **template}
        fields |= {key: value for key, value in text.items() if key not in ("like", "values")}
        return Space(fields, name, folder)

    def _check_values(self, name: str, values: Sequence[Any], where: str) -> None:
        if name not in self.domains:
            raise GenotypeError(f"not a search variable of {self.name}{did_you_mean(name, self.names)}", where)
        for value in values:
            try:
                self.domains[name].index(value)
            except InputError as error:
                raise GenotypeError(str(error), where) from None

    # ---- genotypes of points

    def genotype(
        self, values: Mapping[str, Any], input: tuple[int, int, int] | None = None, classes: int | None = None
    ) -> Genotype:
        """The genotype of a point.

        Args:
            values: A value for each search variable.
            input: Shape of the images (channels, height, width); None: the space's own.
            classes: The number of classes; None: the space's own.

        Raises:
            GenotypeError: The values are not a point of the space.
        """
        return self.template.fill(self.validate(values)).with_task(input=input, classes=classes)

    def point(self, name: str, input: tuple[int, int, int] | None = None, classes: int | None = None) -> Genotype:
        """The genotype of a named point.

        Args:
            name: The point's name.
            input: Shape of the images (channels, height, width); None: the point's own.
            classes: The number of classes; None: the point's own.

        Raises:
            InputError: The space has no such point.
        """
        if name not in self.points:
            hint = did_you_mean(name, self.points) or f"; its points are {', '.join(self.points) or 'none'}"
            raise InputError(f"{self.name} has no point '{name}'{hint}")
        point = self.points[name]
        return self.genotype(point.values, input or point.input, classes or point.classes)

    def describe(self, values: Mapping[str, Any], number: int) -> str:
        """How messages refer to one of several points: by its name if it has one, else by its number."""
        name = next((name for name, point in self.points.items() if point.values == values), None)
        return f"network {number}" if name is None else f"point '{name}'"

    @property
    def networks(self) -> Space:
        """The space of networks alone, whose variables come first."""
        return self

    def trial_hash(self, network_hash: str, values: Mapping[str, Any]) -> str:
        """The hash of a trial, equal for equal trainings: that of its network."""
        return network_hash

    def values_of(self, genotype: Genotype) -> Values:
        """The point of a genotype; the inverse of `genotype`, regardless of input and classes.

        Raises:
            InputError: The genotype is not in the space.
        """
        text, template = genotype.to_dict(), self.template.to_dict()
        let = dict(text.get("let") or {})
        values = {name: let.pop(name) for name in self.names if name in let}
        if let != (template.get("let") or {}) or text["net"] != template["net"]:
            raise InputError(f"this genotype is not in the search space {self.name}")
        return self.validate(values, "let.")


def _places_to_check(values: Choice) -> Iterator[int]:
    """The places of listed values that may be wrong where the first is not; of numbers one of each type is enough."""
    seen = {type(values.at(0))}
    for place in range(1, values.size):
        kind = type(values.at(place))
        if kind not in (int, float) or kind not in seen:
            yield place
        seen.add(kind)


# ---- installed spaces and space files


def list_spaces() -> list[str]:
    """The names of all installed spaces, sorted."""
    return sorted(_installed())


def open_space(name_or_path: str | os.PathLike[str]) -> Space:
    """Open an installed space by its name, or a space file.

    Raises:
        InputError: There is no such space or file, or it is not a valid space.
    """
    text = os.fspath(name_or_path)
    installed = _installed()
    if text in installed:
        with importlib.resources.as_file(installed[text]) as file:
            return _installed_space(file, text, file.stat().st_mtime_ns)
    path = Path(text)
    if path.suffix.lower() in SUFFIXES or "/" in text or os.sep in text or path.is_file():
        return _space(read_document(path), path.stem, path.parent)
    names = ", ".join(sorted(installed)) or "none"
    hint = did_you_mean(text, installed) or f"; installed spaces: {names}; a space file is a path such as ./mine.yaml"
    raise InputError(f"unknown search space '{text}'{hint}")


@lru_cache(maxsize=64)
def _installed_space(file: Path, name: str, modified: int) -> Space:
    """A cached installed space; read again when the file's modification time changes."""
    return _space(read_document(file), name, file.parent)


def _space(text: Any, name: str, folder: Path) -> Space:
    """The space of a file, which may be a subspace of an installed space."""
    if not isinstance(text, Mapping) or "like" not in text:
        return Space(text, name, folder)
    like = text["like"]
    if not isinstance(like, str) or like not in _installed():
        raise InputError(
            f"{name}: like: {format_value(like)} is not an installed space{did_you_mean(str(like), _installed())}"
        )
    if like == name:
        raise InputError(f"{name}: like: a space cannot be a subspace of itself")
    return open_space(like).subspace(text, name, folder)


def spaces_in_family(family: str) -> Iterator[Space]:
    """The installed spaces of a name or family; the space of this name first, then those whose names start with it."""
    for name in sorted(_installed(), key=lambda name: (name != family, not name.startswith(family), name)):
        space = open_space(name)
        if family in (space.name, space.family):
            yield space


def _installed() -> dict[str, Traversable]:
    files: dict[str, Traversable] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            folder = importlib.resources.files(entry.value)
            folder_files = [file for file in folder.iterdir() if file.name.lower().endswith(SUFFIXES)]
        except (ImportError, OSError, TypeError) as error:
            warnings.warn(f"the spaces of {entry.value} cannot be read: {error}", stacklevel=2)
            continue
        for file in folder_files:
            # A package cannot override a space of another: the first one wins.
            files.setdefault(Path(file.name).stem, file)
    return files
