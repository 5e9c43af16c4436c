"""`nas_agg.search` has each setting of a search as a typed argument with its default."""

from __future__ import annotations

import inspect

import nas_agg
from nas_agg.study.definition.settings import Settings


def test_the_arguments_are_the_settings():
    parameters = inspect.signature(nas_agg.search).parameters
    own = {"evaluate", "out", "show", "callbacks", "log"}
    assert parameters.keys() - own == Settings.model_fields.keys()
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters.values())
    for name, field in Settings.model_fields.items():
        if name not in ("space", "dataset"):  # required; digits, unless there is a function or a table
            assert parameters[name].default == field.default, name
        if name not in ("space", "searcher", "budget", "seed"):
            assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
