"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest

# Examples take as long as the machine lets them; where CI runs, the same ones each time.
hypothesis.settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("tests")

for library in ("OMP", "OPENBLAS", "MKL"):  # suites share their cores; before numpy is loaded
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of decoded images that tests share with nobody."""
    before = os.environ.get("NAS_AGG_DATA")
    os.environ["NAS_AGG_DATA"] = str(tmp_path_factory.mktemp("data"))
    yield
    os.environ.pop("NAS_AGG_DATA")
    if before is not None:
        os.environ["NAS_AGG_DATA"] = before


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch on one thread: small networks gain nothing from more, and suites often share their cores."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches write no report at their end, which takes seconds; tests of reports write them themselves."""
    monkeypatch.setenv("NAS_AGG_REPORT", "0")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs the command in an empty folder and gives its status, output and error."""
    from nas_agg.cli import main as cli

    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["nas_agg", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        text = capsys.readouterr()
        return end.value.code or 0, text.out, text.err

    return call


@pytest.fixture
def refused(run):
    """Runs a command that is wrong and gives its one line."""

    def call(*words):
        status, out, err = run(*words)
        assert status == 2, err
        assert out == ""
        assert err.startswith("nas_agg: ")
        assert err.count("\n") == 1
        return err

    return call
