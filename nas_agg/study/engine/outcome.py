"""The best networks of a search, and its result."""

from __future__ import annotations

from nas_agg.common.errors import NasAggError
from nas_agg.study.definition.result import SearchResult, ranked
from nas_agg.study.definition.trial import RecordState, TrialRecord
from nas_agg.study.plan import SearchPlan
from nas_agg.study.proposer import Proposer
from nas_agg.study.records.run_folder import RunFolder
from nas_agg.study.records.study_record import StudyRecord


def best_trial(record: StudyRecord, reason: str) -> TrialRecord:
    """The best trial of a search.

    Raises:
        NasAggError: No network has a result; the message has the reason for which the search ended.
    """
    best = ranked(record.trials)
    if not best:
        failed = [trial.reason for trial in record.trials if trial.state == RecordState.FAILED]
        last = f"; the last failure: {failed[-1]}" if failed else ""
        raise NasAggError(f"no network has a result: {reason}{last}")
    return best[0]


def finalists(plan: SearchPlan, record: StudyRecord) -> list[TrialRecord]:
    """The trials whose networks are trained in full: the best ones, or those of the Pareto front, best first."""
    trials = ranked(record.trials)
    return trials[: max(1, plan.settings.final)]


def search_result(
    plan: SearchPlan, folder: RunFolder | None, record: StudyRecord, proposer: Proposer, reason: str
) -> SearchResult:
    """The result of a search; its best network is the one that was tested, if there was a choice among several."""
    best = best_trial(record, reason)
    test = folder.metrics(tested=True) if folder is not None and plan.tests else None
    if test is not None and "candidates" in test:  # another one may have been the best after a training in full
        best = record.trials[test["trial"]]
    assert best.value is not None
    return SearchResult(
        best=proposer.genotype(best.labels),
        values=plan.space.values(best.labels),
        value=best.value,
        trials=tuple(record.trials),
        reason=reason,
        path=folder.path if folder else None,
        test=test,
        objectives=plan.objectives,
    )
