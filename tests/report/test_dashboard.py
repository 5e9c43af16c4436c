"""The study of a run in optuna-dashboard, by requests to its server: notes, drawings, and an unchanged run."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from xml.etree import ElementTree

import pytest
from pages import HOSTILE

import nas_agg
from nas_agg.cli.dashboard import make_server
from nas_agg.report.runs.dashboard_storage import NOTES_FILE, DashboardStorage, DrawingStore
from nas_agg.report.runs.trial_notes import TREE_DEPTH, plain
from nas_agg.report.tree import network_tree, tree_lines

dashboard = pytest.importorskip("optuna_dashboard")


class Client:
    """A running dashboard of a run."""

    def __init__(self, path: Path):
        self.storage = DashboardStorage(path)
        self.storage.annotate(self.storage.run)
        app = dashboard.wsgi(self.storage, artifact_store=DrawingStore(self.storage))
        self.server = make_server(app, 0)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __call__(self, path: str, body: Any = None, method: str | None = None) -> str:
        url = f"http://127.0.0.1:{self.server.server_port}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.read().decode()

    def study(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self("/api/studies/0"))
        return value


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dashboard") / "run"
    nas_agg.search("agg-bench", budget=4, seed=1, objective="accuracy,macs", pruner="none", out=path)
    return path


@pytest.fixture
def client(path: Path) -> Iterator[Client]:
    client = Client(path)
    yield client
    client.server.shutdown()
    client.server.server_close()


def digest(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != NOTES_FILE)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_each_trial_has_its_tree_its_figures_and_its_drawing(client: Client, path: Path) -> None:
    run, shown = nas_agg.open_run(path), client.study()
    assert shown["name"] == run.run["study"] and len(shown["trials"]) == len(run.trials)
    for trial, record in zip(shown["trials"], run.trials, strict=True):
        genotype, note = nas_agg.load(f"{path}:{record.number}"), trial["note"]["body"]
        assert "\n".join(tree_lines(network_tree(genotype), TREE_DEPTH)) in note
        assert f"{record.macs:,} MACs" in note and plain(f"{100 * (record.accuracy or 0):.2f} %") in note
        assert all(len(attribute["value"]) < 100 for attribute in trial["user_attrs"]), "lines that widen the page"
        (artifact,) = trial["artifacts"]
        assert artifact["mimetype"] == "image/svg+xml"
        drawn = client(f"/artifacts/0/{trial['trial_id']}/{artifact['artifact_id']}")
        assert ElementTree.fromstring(drawn).tag.endswith("svg") and f"{record.params:,} parameters" in drawn


def test_notes_are_kept_and_nothing_else_is_changed(client: Client, path: Path) -> None:
    before = digest(path)
    client("/api/studies/0/1/note", {"body": "mine", "version": 2}, "PUT")
    assert client.study()["trials"][1]["note"] == {"body": "mine", "version": 2}
    assert "**trial 2" in client.study()["trials"][2]["note"]["body"]
    again = DashboardStorage(path)
    again.annotate(again.run)
    assert "mine" in again.get_study_system_attrs(0).values()
    for address, body, method in (
        ("/api/studies/0", None, "DELETE"),
        ("/api/trials/0/user-attrs", {"user_attrs": {"a": 1}}, "POST"),
        ("/api/studies", {"study_name": "other", "directions": ["minimize"]}, "POST"),
        ("/api/artifacts/0/0/0", None, "DELETE"),
    ):
        with pytest.raises(HTTPError):
            client(address, body, method)
    assert digest(path) == before


def test_a_running_search_is_followed(tmp_path: Path) -> None:
    path, stop = tmp_path / "run", threading.Event()
    nas_agg.search("agg-bench", budget=2, out=path)
    storage = DashboardStorage(path)
    nas_agg.search("agg-bench", budget=3, out=path)
    thread = threading.Thread(target=storage.watch, args=(stop,))
    thread.start()
    stop.wait(0.1)
    stop.set()
    thread.join()
    storage.run = nas_agg.open_run(path)
    storage.annotate(storage.run)
    assert storage.get_study_system_attrs(0)["dashboard:2:note_ver"] == 1
    assert "trial 2" in storage.drawing(2)


def test_hostile_texts_are_no_markup(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def evaluate(values: Any, trial: Any) -> float:
        if trial.number == 1:
            raise ValueError(f"{HOSTILE[0]} ![x](http://example.org)")
        return 1.0

    nas_agg.search({HOSTILE[2]: [*HOSTILE, "*a*"]}, evaluate, budget=4, searcher="random", out=path)
    storage = DashboardStorage(path)
    storage.annotate(storage.run)
    notes = "".join(str(v) for k, v in storage.get_study_system_attrs(0).items() if "note_str" in k)
    assert "<" not in notes and "\u202e" not in notes and "![x](" not in notes and "&lt;script" in notes
    assert "artifacts" not in "".join(storage.get_study_system_attrs(0)), "search variables alone make no network"


def test_the_command_refuses_what_is_no_search(refused: Any, path: Path) -> None:
    assert "missing" in refused("dashboard", "missing")
    storage = DashboardStorage(path)
    server = make_server(dashboard.wsgi(storage), 0)
    try:
        assert "choose another" in refused("dashboard", str(path), "--port", str(server.server_port))
    finally:
        server.server_close()
