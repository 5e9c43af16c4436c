"""Overhead of the search engine: milliseconds per trial on a table, and the speed-up of eight workers.

    python benchmarks/engine.py [--searchers random,predictor] [--seeds 3]
    python benchmarks/engine.py --trials 10000 [--searchers random]
    python benchmarks/engine.py --workers 8 [--searchers random,predictor]
    python benchmarks/engine.py --durability 10 [--budget 150]
    python benchmarks/engine.py --workers 8 [--searchers random,predictor] [--backend ray]
    python benchmarks/engine.py --backends local,ray [--workers 1] [--budget 100]

Overhead: complete searches of 150 networks of agg-bench, including journal and run folder, and of a synthetic function
of 30 search variables with four values each. The time of a trial is that between the starts of two evaluations, as CPU
time and wall time. Medians and means are shown, since searchers that fit a model slow down as trials accumulate.

Trials: one search of the synthetic function with that many trials, and its CPU time per trial after 200 trials and at
the end. Of a searcher that does not look at earlier trials (`random`) both are the same. The share of the time in which
the search waits for the disk is shown as well.

Durability: so many pairs of searches of agg-bench, one of each pair with an fsync that does nothing, in turn; medians
of their wall times, the ratio of these, and the time that the search waits for the disk as a share of its wall time.

Workers: the same searches with worker processes that sleep for a second and report the table's result. Speed-up is the
total time of evaluations divided by the time from the start of the first to the end of the last evaluation; the startup
time of the workers, negligible in a long search, is shown separately. With `--backend ray`, a Ray cluster of this
machine has as many CPUs as there are workers, whatever the machine has.

Backends: trials that do nothing, on each backend. The time of a trial is that between the ends of two trials; that of a
table, which is looked up in the same process, is the engine's own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from nas_agg.study.definition.task import WorkerConfig
from nas_agg.study.workers.messages import FinalJob, TrialJob, TrialOutcome

SLEEP = 1.0


def load_table(config: WorkerConfig) -> tuple[Any, Path]:
    """What a worker needs: a table, and a folder for its notes."""
    from nas_agg.search_space.space import open_space
    from nas_agg.study.tables.results_table import TabularSpace

    return TabularSpace(open_space("agg-bench")), Path(config.data["notes"])


def sleep_and_look_up(job: TrialJob | FinalJob, data: tuple[Any, Path], report: Any) -> TrialOutcome:
    """Sleep, then look the network up."""
    from nas_agg.language.genotype import Genotype

    space, notes = data
    start = time.time()
    time.sleep(SLEEP)
    row = space.network(Genotype.model_validate(job.genotype))
    with (notes / "times.txt").open("a") as file:
        file.write(f"{start} {time.time()}\n")
    return TrialOutcome(metrics={"accuracy": row.value}, seconds=SLEEP)


def do_nothing(job: TrialJob | FinalJob, data: Any, report: Any) -> TrialOutcome:
    """Do nothing at all."""
    return TrialOutcome(metrics={"accuracy": 0.5}, seconds=0.0)


#: What workers do: what they load once, and what they do for each trial.
WORK: dict[str, Any] = {"sleep": (load_table, sleep_and_look_up), "nothing": (lambda config: None, do_nothing)}


def overhead(searcher: str, seed: int, budget: int, names: int) -> tuple[list[float], list[float]]:
    """Milliseconds per trial of a search: CPU time and wall time."""
    from nas_agg.study import search
    from nas_agg.study.workers.table_lookup import TableLookupBackend

    cpu, wall = [time.process_time()], [time.perf_counter()]

    def record_time() -> None:
        cpu.append(time.process_time())
        wall.append(time.perf_counter())

    def evaluate(values: dict[str, int], trial: Any) -> float:
        record_time()
        return -sum((value - place % 8) ** 2 for place, value in enumerate(values.values()))

    class TimedBackend(TableLookupBackend):
        def submit(self, *arguments: Any) -> None:
            record_time()
            super().submit(*arguments)

    settings: dict[str, Any] = {"searcher": searcher, "budget": budget, "seed": seed}
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("nas_agg.study.engine.active_search.TableLookupBackend", TimedBackend),
    ):
        if names:
            search({f"n{j}": [1, 2, 4, 8] for j in range(names)}, evaluate, out=f"{folder}/run", **settings)
        else:
            search("agg-bench", dataset=None, out=f"{folder}/run", **settings)
    return tuple([1000 * (b - a) for a, b in itertools.pairwise(times[1:])] for times in (cpu, wall))


@contextlib.contextmanager
def counted_fsync(is_fake: bool = False) -> Iterator[list[float]]:
    """Collects the seconds of each fsync that the search itself waits for; a fake one does nothing."""
    waits, fsync = list[float](), os.fsync

    def timed_fsync(descriptor: int) -> None:
        start = time.perf_counter()
        if not is_fake:
            fsync(descriptor)
        if threading.current_thread() is threading.main_thread():
            waits.append(time.perf_counter() - start)

    with mock.patch("os.fsync", timed_fsync):
        yield waits


def growth(searcher: str, trials: int) -> tuple[float, float, float]:
    """CPU time per trial in milliseconds after 200 trials and at the end, and the share of waiting for the disk."""
    start = time.perf_counter()
    with counted_fsync() as waits:
        cpu, _ = overhead(searcher, 0, trials, 30)
    share = sum(waits) / (time.perf_counter() - start)
    return statistics.mean(cpu[100:300]), statistics.mean(cpu[-200:]), share


def durability(searcher: str, budget: int, pairs: int) -> list[str]:
    """Cells of a table: wall times with and without fsync, their ratio, number of fsyncs, share of waiting."""
    from nas_agg.study import search

    walls: dict[bool, list[float]] = {True: [], False: []}
    shares, counts = list[float](), list[int]()
    for pair in range(-1, pairs):  # the first imports what a search needs
        for is_fake in (False, True) if pair % 2 else (True, False):
            with tempfile.TemporaryDirectory() as folder, counted_fsync(is_fake) as waits:
                start = time.perf_counter()
                search("agg-bench", dataset=None, searcher=searcher, budget=budget, out=f"{folder}/run")
                seconds = time.perf_counter() - start
            if pair >= 0:
                walls[is_fake].append(seconds)
            if pair >= 0 and not is_fake:
                shares.append(sum(waits) / seconds)
                counts.append(len(waits))
    real, fake = statistics.median(walls[False]), statistics.median(walls[True])
    cells = [f"{real:.2f} s", f"{fake:.2f} s", f"{real / fake:.3f}", f"{statistics.median(counts):.0f}"]
    return [searcher, str(budget), *cells, f"{100 * statistics.median(shares):.2f} %"]


def search_on(backend: str, folder: str, searcher: str, seed: int, budget: int, workers: int, work: str) -> None:
    """Search on a backend.

    Args:
        backend: Its name.
        folder: Where the run and the notes of workers go.
        searcher, seed, budget: As for a search.
        workers: Trials at once.
        work: ``sleep``, or ``nothing``.
    """
    import nas_agg.study.plan as plan
    from nas_agg.search_space.space import open_space
    from nas_agg.study.api import search
    from nas_agg.study.definition.task import Task
    from nas_agg.study.workers.process import Trainer

    task = Task("a sleeping table", {"notes": folder}, (1, 8, 8), 10, ("cpu",) * workers, "no device")
    command = (sys.executable, __file__, "--serve", work)
    trainer = Trainer(lambda threads: None, *WORK[work])
    plan.DEFAULT_SETUP = plan.TrainingSetup(lambda settings, space: task, command, trainer=trainer)
    search(
        open_space("agg-bench"),
        searcher=searcher,
        budget=budget,
        seed=seed,
        dataset="digits",
        pruner="none",
        final=0,
        backend=backend,
        workers=workers,
        out=Path(folder) / "run",
    )


def milliseconds(backend: str, budget: int, workers: int) -> tuple[float, float]:
    """Milliseconds between the ends of two trials that do nothing, and of the coordinator's CPU time per trial."""
    from nas_agg.study.coordinator import Coordinator

    times, cpu, record_end = [], [], Coordinator._record_end

    def timed(self: Any, event: Any) -> Any:
        times.append(time.perf_counter())
        cpu.append(time.process_time())
        return record_end(self, event)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Coordinator, "_record_end", timed):
        search_on(backend, folder, "random", 0, budget, workers, "nothing")
    skipped = min(10, budget // 2)  # while workers start
    pairs = [[1000 * (b - a) for a, b in itertools.pairwise(series[skipped:])] for series in (times, cpu)]
    return statistics.median(pairs[0]), statistics.mean(pairs[1])


def speed_up(searcher: str, seed: int, budget: int, workers: int, backend: str) -> tuple[float, float]:
    """The speed-up over sequential evaluation, and the seconds until the first evaluation started."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        search_on(backend, folder, searcher, seed, budget, workers, "sleep")
        times = [tuple(map(float, line.split())) for line in (Path(folder) / "times.txt").read_text().splitlines()]
    first, last = min(begin for begin, _ in times), max(end for _, end in times)
    return len(times) * SLEEP / (last - first), first - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--searchers", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--durability", type=int, metavar="PAIRS")
    parser.add_argument("--backend", default="local")
    parser.add_argument("--backends", type=lambda text: text.split(","))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.backends:
        print("| backend | trials at once | wall time per trial, median | CPU time of the coordinator, mean |")
        print(f"|{'---|' * 4}")
        for backend in options.backends:
            wall, cpu = milliseconds(backend, options.budget or 100, options.workers or 1)
            print(f"| {backend} | {options.workers or 1} | {wall:.1f} ms | {cpu:.1f} ms |", flush=True)
        return
    if options.workers:
        print("| backend | searcher | workers | networks | speed-up | efficiency | first evaluation after |")
        print(f"|{'---|' * 7}")
        budget = options.budget or 20 * options.workers
        for searcher in options.searchers or ["random", "predictor"]:
            times, start = speed_up(searcher, 0, budget, options.workers, options.backend)
            share = times / options.workers
            cells = [options.backend, searcher, str(options.workers), str(budget)]
            cells += [f"{times:.2f}", f"{share:.3f}", f"{start:.1f} s"]
            print(f"| {' | '.join(cells)} |", flush=True)
        return
    if options.durability:
        print("| searcher | networks | wall time | without fsync | ratio | fsyncs | waiting for the disk |")
        print(f"|{'---|' * 7}")
        for searcher in options.searchers or ["random", "predictor"]:
            cells = durability(searcher, options.budget or 150, options.durability)
            print(f"| {' | '.join(cells)} |", flush=True)
        return
    if options.trials:
        print(f"| searcher | CPU time after 200 trials | after {options.trials:,} | ratio | waiting for the disk |")
        print(f"|{'---|' * 5}")
        for searcher in options.searchers or ["random"]:
            early, late, share = growth(searcher, options.trials)
            cells = [searcher, f"{early:.2f} ms", f"{late:.2f} ms", f"{late / early:.2f}", f"{100 * share:.2f} %"]
            print(f"| {' | '.join(cells)} |", flush=True)
        return
    print("| searcher | search variables | CPU time, median | mean | wall time, median | mean |")
    print(f"|{'---|' * 6}")
    for names in (0, 30):
        for searcher in options.searchers or ["random", "evolution", "local", "nsga2", "tpe", "predictor"]:
            collected: list[list[float]] = [[], []]
            for seed in range(options.seeds):
                for own, times in zip(collected, overhead(searcher, seed, options.budget or 150, names), strict=True):
                    own += times
            cells = [f"{of(times):.1f} ms" for times in collected for of in (statistics.median, statistics.mean)]
            print(f"| {searcher} | {names or 8} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        from nas_agg.study.workers.process import serve

        load, train = WORK[sys.argv[2]]
        del sys.argv[1:3]

        def prepare(config: WorkerConfig) -> Any:
            data = load(config)
            return lambda job, report: train(job, data, report)

        serve(prepare)
    else:
        main()
