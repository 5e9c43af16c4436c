"""How objects show themselves in notebooks.

The functions that draw belong to packages above those of the objects. `nas_agg` names their module once, and it is
imported when a notebook asks.
"""

from __future__ import annotations

from importlib import import_module

_modules: list[str] = []


def set_renderers(module: str) -> None:
    """Name the module whose ``RENDERERS`` map the name of a class and a form, ``html`` or ``svg``, to a function."""
    _modules[:] = [module]


class Displayed:
    """An object that notebooks draw. A form that it does not have is None: the notebook shows another, or its repr."""

    def _repr_html_(self) -> str | None:
        return self._render("html")

    def _repr_svg_(self) -> str | None:
        return self._render("svg")

    def _render(self, form: str) -> str | None:
        renderers = import_module(_modules[0]).RENDERERS if _modules else {}
        render = renderers.get((type(self).__name__, form))
        return render(self) if render else None
