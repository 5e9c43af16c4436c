"""Draws of an Optuna sampler for a trial, none of which is recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.trial import Labels
from nas_agg.study.samplers.searcher import describe_exception

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial


def draw_labels(
    study: Study,
    sampler: BaseSampler,
    trial: FrozenTrial,
    distributions: Mapping[str, BaseDistribution],
    searcher: str,
) -> Iterator[Labels]:
    """Draw values for a trial, endlessly.

    Args:
        study: The earlier trials.
        sampler: The sampler.
        trial: The trial.
        distributions: The search variables.
        searcher: The searcher's name in error messages.

    Raises:
        NasAggError: The sampler failed, or drew a value that a search variable does not have.
    """
    while True:
        with searcher_errors(searcher, trial.number):
            relative_space = sampler.infer_relative_search_space(study, trial)
            relative = sampler.sample_relative(study, trial, relative_space)
            labels = {
                name: relative[name]
                if name in relative
                else sampler.sample_independent(study, trial, name, distribution)
                for name, distribution in distributions.items()
            }
            for name, distribution in distributions.items():
                if not distribution._contains(distribution.to_internal_repr(labels[name])):
                    raise ValueError(f"{name} cannot be {labels[name]!r}")
        yield labels


@contextlib.contextmanager
def searcher_errors(searcher: str, number: int) -> Iterator[None]:
    """Convert any exception of a searcher into an error of one line.

    Args:
        searcher: The searcher's name in the message.
        number: The trial that the searcher works on.
    """
    try:
        yield
    except Exception as error:  # a searcher is a plug-in
        raise NasAggError(f"searcher {searcher} failed at trial {number}: {describe_exception(error)}") from error
