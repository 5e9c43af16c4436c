"""A node that leaves a Ray cluster hands its trial back, which continues on another from its checkpoint."""

from __future__ import annotations

import pytest

from nas_agg.study.definition.settings import Settings
from nas_agg.study.workers.messages import EventKind
from nas_agg.testing.backends import _Check, _context


@pytest.mark.slow
@pytest.mark.parametrize(("graceful", "kind"), [(True, EventKind.RELEASED), (False, EventKind.WORKER_DIED)])
def test_a_trial_continues_on_another_node(tmp_path, graceful, kind):
    ray = pytest.importorskip("ray", reason="the extra nas-agg[ray] is not installed")
    from ray.cluster_utils import Cluster

    from nas_agg.study.clusters.ray_backend import RayBackend

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        context = _context(tmp_path, Settings(space="microdense", workers=1, ray_address=cluster.address))
        check = _Check(RayBackend, context, RayBackend.open(context), patience=60.0)
        node = cluster.add_node(num_cpus=1)  # now, so that this process is connected to the head
        check.submit(0, "count", epochs=1000)
        check.wait(lambda: len(check.reports(0, 1)) > 3, "four reports")
        cluster.add_node(num_cpus=1)
        cluster.remove_node(node, allow_graceful=graceful)
        check.end(0, 1, kind)
        epochs = check.beats(0) + 3
        check.submit(0, "count", attempt=2, epochs=epochs)
        check.end(0, 2, EventKind.COMPLETED)
        assert len(check.reports(0, 2)) == epochs
        assert check.beats(0) <= epochs + 1, "only what followed the checkpoint is trained again"
        check.backend.close()
    finally:
        ray.shutdown()
        cluster.shutdown()
