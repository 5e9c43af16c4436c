"""Shell completion of the values of arguments and options; ``nas_agg --install-completion`` sets it up."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def complete_space(incomplete: str) -> list[str]:
    """Names of installed spaces."""
    from nas_agg.search_space.space import list_spaces

    return _matching(list_spaces(), incomplete)


def complete_genotype(incomplete: str) -> list[str]:
    """The points of a space, once its name and a slash are typed; before that the shell completes files."""
    from nas_agg.search_space.space import spaces_in_family

    family, slash, _ = incomplete.partition("/")
    points = (f"{family}/{point}" for space in spaces_in_family(family) for point in space.points) if slash else ()
    return _matching(points, incomplete)


def complete_searcher(incomplete: str) -> list[str]:
    """Names of installed searchers."""
    from nas_agg.study.samplers.searcher import installed_searchers

    return _matching(installed_searchers(), incomplete)


def complete_backend(incomplete: str) -> list[str]:
    """Names of backends."""
    from nas_agg.study.workers.registry import BACKENDS

    return _matching(BACKENDS, incomplete)


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes."""
    from nas_agg.training.recipes import list_recipes

    return _matching(list_recipes(), incomplete)


def complete_dataset(incomplete: str) -> list[str]:
    """Names of data sets."""
    from nas_agg.training.datasets import DATASETS

    return _matching((name for names in DATASETS for name in names.split(", ")), incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


#: The completions of settings of a search, by their names.
OF_SETTINGS: dict[str, Callable[[str], list[str]]] = {
    "space": complete_space,
    "searcher": complete_searcher,
    "dataset": complete_dataset,
    "backend": complete_backend,
}
