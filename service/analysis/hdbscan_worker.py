"""The child process that runs scikit-learn's HDBSCAN: points on its standard input, clusters on its standard output.

A process of its own (`service/concurrency/child_process.py`), because HDBSCAN cannot be interrupted and holds the interpreter lock for
seconds at a time, in which the service would answer nobody.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from tempfile import TemporaryFile

import numpy as np

from backbone.interpreter import module_command, module_environment
from service.analysis.centroids import NOISE, Clusters
from service.concurrency.child_process import give_way, run_child
from service.points import Vector

_MODULE = "service.analysis.hdbscan_worker"  # this one, as the child runs it


def hdbscan(points: Vector, min_size: int, check: Callable[[], None]) -> Clusters:
    """Return the cluster of each of the points [B, D], 0 to K - 1, or NOISE.

    `check` is called ten times a second and may raise to stop the work. Raises ChildFailed.
    """
    if len(points) < min_size:  # scikit-learn refuses what cannot hold a cluster
        return np.full(len(points), NOISE)
    with TemporaryFile() as given, TemporaryFile() as said:  # a pipe would have to be attended to
        np.save(given, points, allow_pickle=False)
        given.seek(0)
        command = module_command(_MODULE, str(min_size))
        run_child(_MODULE, command, module_environment(os.environ), check, stdin=given, stdout=said)
        said.seek(0)
        found: Clusters = np.load(said, allow_pickle=False)
        return found


def main(min_size: int) -> None:
    """Read points, write their clusters."""
    points = np.load(sys.stdin.buffer, allow_pickle=False)
    from sklearn.cluster import HDBSCAN  # heavy, and needed nowhere else

    # a k-d tree, because the other way keeps all distances: 800 MB for 10,000 points
    found = HDBSCAN(min_cluster_size=min_size, algorithm="kd_tree", copy=True).fit_predict(points)
    np.save(sys.stdout.buffer, found.astype(np.int64), allow_pickle=False)


if __name__ == "__main__":
    give_way(int(sys.argv[2]))
    main(int(sys.argv[1]))
