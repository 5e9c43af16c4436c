"""A search with one trial at a time gives the same trials on every backend, and the same final network."""

from __future__ import annotations

import numpy as np
import pytest

from nas_agg.study.api import search

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A data set of noise in which the mean of an image tells its class."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    labels = np.arange(160) % 10
    pixels = (draw.integers(0, 100, (160, 8, 8)) + 15 * labels[:, None, None]).astype(np.uint8)
    np.savez(folder / "noise.npz", x_train=pixels, y_train=labels, x_test=pixels[:40], y_test=labels[:40])
    return f"npz:{folder / 'noise.npz'}"


def trials(result):
    found = [(one.number, one.state, one.labels, one.seed, one.values, one.loss, one.rungs) for one in result.trials]
    return found, {name: value for name, value in result.test.items() if name != "seconds"}


@pytest.mark.parametrize(("pruner", "final"), [("none", 1), ("halving", 2)])
def test_local_ray_and_slurm_give_the_same_trials(tiny, images, tmp_path, pruner, final):
    ray = pytest.importorskip("ray", reason="the extra nas-agg[ray] is not installed")
    pytest.importorskip("submitit", reason="the extra nas-agg[slurm] is not installed")
    settings = {"searcher": "random", "budget": 6, "epochs": 3, "pruner": pruner, "dataset": images, "final": final}
    settings |= {"device": "cpu", "workers": 1, "final_epochs": 2}
    local = trials(search(tiny, out=tmp_path / "local", backend="local", **settings))
    assert sum(state in ("complete", "paused", "pruned") for _, state, *_ in local[0]) == 6
    assert ("candidates" in local[1]) == (final > 1)
    slurm = {"cluster": "local"}
    assert trials(search(tiny, out=tmp_path / "slurm", backend="slurm", slurm=slurm, **settings)) == local
    try:
        assert trials(search(tiny, out=tmp_path / "ray", backend="ray", ray_address="local", **settings)) == local
    finally:
        ray.shutdown()
    for backend in ("local", "ray", "slurm"):
        for folder in ("trials/0", "best"):
            files = {path.name for path in (tmp_path / backend / folder).iterdir()}
            assert files == {path.name for path in (tmp_path / "local" / folder).iterdir()}
        assert not (tmp_path / backend / "best.tmp").exists()
