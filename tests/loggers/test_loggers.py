"""What loggers write is read back by the loggers' own readers."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

import nas_agg
from nas_agg.common.errors import InputError
from nas_agg.loggers import registry
from nas_agg.loggers.registry import make_loggers

SPACE = {
    "input": [1, 8, 8],
    "classes": 10,
    "open": {"width": {"from": 2, "to": 9}, "end": ["relu", ["bn", "relu"]]},
    "net": [{"conv": 3, "out": "width"}, "end", "gap", {"linear": "classes"}],
}


def evaluate(genotype, trial):
    """Two reports; one width fails."""
    width = genotype.to_dict()["let"]["width"]
    if width == 3:
        raise ValueError("too narrow")
    for step in (1, 2):
        trial.report(width / 10 * step, step)
        if width == 4:
            raise optuna.TrialPruned
    return width / 5


def run_search(folder: Path, log: str):
    return nas_agg.search(SPACE, evaluate, "random", budget=8, seed=0, out=folder, log=log)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run_search(tmp_path / "run", "tensorboard")
    best = max(result.trials, key=lambda trial: trial.scores or (-1,))
    events = EventAccumulator(str(tmp_path / f"run/tensorboard/trial-{best.number}")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("value")] == [
        (1, pytest.approx(best.value / 2)),
        (2, pytest.approx(best.value)),
    ]
    assert events.Scalars("result/value")[0].value == pytest.approx(best.value)
    assert events.Scalars("result/params")[0].value == best.params
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")
    final = EventAccumulator(str(tmp_path / "run/tensorboard/final")).Reload()
    assert final.Scalars("final/best_value")[0].value == pytest.approx(best.value)
    assert "best network" in (tmp_path / "run/tensorboard/network.svg").read_text()


def test_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    result = run_search(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient((tmp_path / "store").as_uri())
    experiment = client.get_experiment_by_name("nas_agg")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"run", *(f"trial {trial.number}" for trial in result.trials)}
    for trial in result.trials:
        run = runs[f"trial {trial.number}"]
        assert run.data.tags["mlflow.parentRunId"] == runs["run"].info.run_id
        assert run.data.params["width"] == str(trial.labels["width"])
        assert run.info.status == ("FAILED" if trial.state == "failed" else "FINISHED")
        if trial.value is not None:
            assert run.data.metrics["result.value"] == trial.value
        if trial.state == "complete":
            curve = client.get_metric_history(run.info.run_id, "value")
            assert [metric.step for metric in curve] == [1, 2]
    assert runs["run"].data.params["budget"] == "8"
    assert runs["run"].data.metrics["final.best_value"] == result.value
    assert client.list_artifacts(runs["run"].info.run_id)[0].path == "network.svg"


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    result = nas_agg.search(SPACE, evaluate, "random", budget=2, seed=0, out=tmp_path / "run", log="wandb")
    folders = list((tmp_path / "run/wandb").glob("offline-run-*"))
    assert len(folders) == len(result.trials) + 1
    summaries = [records(folder) for folder in folders]
    values = [summary["value"] for summary in summaries if "params" in summary and "value" in summary]
    assert sorted(values) == sorted(trial.value for trial in result.trials if trial.value is not None)
    assert [summary["best_value"] for summary in summaries if "best_value" in summary] == [result.value]
    assert any("best network" in path.read_text() for path in (tmp_path / "run/wandb").rglob("*.html"))


def records(folder: Path) -> dict:
    """The summary and the last history in a run's transaction log: LevelDB's log format, of protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    summary: dict = {}
    for data in log_records(next(folder.glob("*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in (*record.summary.update, *record.history.item):
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return summary


def log_records(data: bytes, block: int = 32768, header: int = 7):
    """Records of a log: each in one chunk or several, none of which crosses a block."""
    place, record = header, b""  # after the file's own header
    while place + header <= len(data):
        if block - place % block < header:
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + header : place + header + length]
        place += header + length
        if kind in (1, 4):  # full or last
            yield record
            record = b""


def test_wrong_names_and_missing_packages(monkeypatch):
    with pytest.raises(InputError, match="log: unknown logger 'tensorbord'; did you mean 'tensorboard'"):
        make_loggers("tensorbord")
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"log: wandb is not installed: pip install 'nas-agg\[wandb\]'"):
        make_loggers(["wandb"])
