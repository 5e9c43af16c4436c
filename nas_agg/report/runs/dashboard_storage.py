"""The study of a run for optuna-dashboard: read only, with a note and a drawing for each trial.

Nothing of the run is changed. What a user writes in the dashboard is kept in ``notes.json`` of the run folder.
"""

from __future__ import annotations

import copy
import io
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage

from nas_agg.common.errors import NasAggError
from nas_agg.common.files import read_document, write_atomic
from nas_agg.report.drawing import draw
from nas_agg.report.runs.trial_notes import trial_network, trial_note
from nas_agg.study.definition.trial import OWN
from nas_agg.study.records.saved_run import SavedRun, open_study, read_saved_run

if TYPE_CHECKING:
    from optuna.study import StudyDirection
    from optuna.study._frozen import FrozenStudy
    from optuna.trial import FrozenTrial

NOTES_FILE = "notes.json"
REFRESH_SECONDS = 5.0  # between two looks for new trials
_OWN = "dashboard:"  # attributes of optuna-dashboard
_GENOTYPE = f"{OWN}genotype"
_PIECE = 2045  # characters, into which optuna-dashboard divides notes


class DashboardStorage(BaseStorage):
    """The storage of a run, of which only that study is visible, and only notes can be written.

    Args:
        path: The run folder of a search.

    Raises:
        InputError: There is no such run, it is no search, or it is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self.run = read_saved_run(path)
        self._storage, self._study = open_study(self.run)
        self._lock = threading.Lock()
        self._generated: dict[str, Any] = {}  # attributes with notes and drawings, by name
        self._noted: dict[int, str] = {}  # the state in which a trial was noted
        file = path / NOTES_FILE
        written = read_document(file) if file.is_file() else {}
        self._written: dict[str, Any] = {k: v for k, v in written.items() if k.startswith(_OWN)}

    # ---- notes and drawings

    def watch(self, stop: threading.Event) -> None:
        """Write notes for new trials until an event is set; for a thread of its own."""
        while not stop.is_set():
            try:
                self.run = read_saved_run(self.path)
                self.annotate(self.run, stop)
            except NasAggError:  # the run is being written; the next look finds it whole
                pass
            stop.wait(REFRESH_SECONDS)

    def annotate(self, run: SavedRun, stop: threading.Event | None = None) -> None:
        """Make the note and name the drawing of each trial that has changed."""
        ids = {trial.number: trial._trial_id for trial in self.get_all_trials(self._study, deepcopy=False)}
        for trial in run.trials:
            if stop is not None and stop.is_set():
                return
            if self._noted.get(trial.number) == trial.state or trial.number not in ids:
                continue
            attrs = _note_attributes(ids[trial.number], trial_note(run, trial))
            if trial_network(run, trial) is not None:
                attrs |= _artifact_attribute(ids[trial.number], trial.number)
            with self._lock:
                self._generated |= attrs
                self._noted[trial.number] = trial.state

    def drawing(self, number: int) -> str:
        """The drawing of a trial's network.

        Raises:
            ArtifactNotFound: It has none.
        """
        trials = self.run.trials
        genotype = trial_network(self.run, trials[number]) if number < len(trials) else None
        if genotype is None:
            raise ArtifactNotFound(str(number))
        return draw(genotype, f"trial {number}", adapts=False)

    # ---- reading

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        with self._lock:
            own = self._storage.get_study_system_attrs(study_id)
            return {**self._without_own_notes(own), **own, **self._written}

    def _without_own_notes(self, own: dict[str, Any]) -> dict[str, Any]:
        """The generated attributes, but for notes of which a user has written others."""
        noted = {key.removesuffix("note_ver") for key in (*own, *self._written) if key.endswith(":note_ver")}
        return {key: value for key, value in self._generated.items() if key.partition("note_")[0] not in noted}

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = [study for study in self._storage.get_all_studies() if study._study_id == self._study]
        for study in studies:
            study.system_attrs = self.get_study_system_attrs(self._study)
        return studies

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._storage.get_study_user_attrs(study_id)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _without_genotype(self._storage.get_trial(trial_id))

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return [_without_genotype(trial) for trial in trials]

    # ---- writing

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Keep an attribute of the dashboard, such as a piece of a note, in the run folder."""
        if not key.startswith(_OWN):
            self._refuse()
        with self._lock:
            self._written[key] = value
            write_atomic(self.path / NOTES_FILE, json.dumps(self._written, indent=1) + "\n")

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("the dashboard of a run is read only, except for notes")

    create_new_study = create_new_trial = delete_study = set_study_user_attr = _refuse
    set_trial_param = set_trial_state_values = set_trial_intermediate_value = _refuse
    set_trial_user_attr = set_trial_system_attr = _refuse


class DrawingStore:
    """An artifact store of Optuna whose artifacts are the drawings of a run's trials, made when they are read.

    Args:
        storage: The storage of the run.
    """

    def __init__(self, storage: DashboardStorage):
        self._storage = storage

    def open_reader(self, artifact_id: str) -> BinaryIO:
        if not artifact_id.isdecimal():
            raise ArtifactNotFound(artifact_id)
        return io.BytesIO(self._storage.drawing(int(artifact_id)).encode())

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        raise RuntimeError("the dashboard of a run is read only, except for notes")

    def remove(self, artifact_id: str) -> None:
        raise ArtifactNotFound(artifact_id)


def _without_genotype(trial: FrozenTrial) -> FrozenTrial:
    """A trial without its genotype, which the dashboard would show as one line of thousands of pixels."""
    shown = copy.copy(trial)
    shown.user_attrs = {key: value for key, value in trial.user_attrs.items() if key != _GENOTYPE}
    return shown


def _note_attributes(trial_id: int, note: str) -> dict[str, Any]:
    """A note in the form in which optuna-dashboard stores it with the study."""
    pieces = [note[start : start + _PIECE] for start in range(0, len(note), _PIECE)]
    prefix = f"{_OWN}{trial_id}:"
    return {f"{prefix}note_ver": 1} | {f"{prefix}note_str:{i}": piece for i, piece in enumerate(pieces)}


def _artifact_attribute(trial_id: int, number: int) -> dict[str, str]:
    """The drawing of a trial as optuna-dashboard lists it."""
    about = {"artifact_id": str(number), "filename": f"trial-{number}.svg", "mimetype": "image/svg+xml"}
    return {f"{_OWN}artifacts:{trial_id}:{number}": json.dumps(about | {"encoding": None})}
