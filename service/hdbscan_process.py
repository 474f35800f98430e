"""The child process that runs scikit-learn's HDBSCAN: points on its standard input, clusters on its standard output.

A process of its own, because HDBSCAN cannot be interrupted and holds the interpreter lock for seconds at a time, in which the
service would answer nobody. Stopping it means ending the child. At a low priority it gives way to searches.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from tempfile import TemporaryFile

import numpy as np

from service.centroids import NOISE, Clusters
from service.points import Vector

_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.1  # seconds between two looks at whether to stop
_NICE = 10  # behind the service, before what only runs on an idle machine


class ClusteringFailed(Exception):
    """The child ended badly; the message says how."""


def hdbscan(points: Vector, min_size: int, check: Callable[[], None]) -> Clusters:
    """Return the cluster of each of the points [B, D], 0 to K - 1, or NOISE.

    `check` is called ten times a second and may raise to stop the work. Raises ClusteringFailed.
    """
    if len(points) < min_size:  # scikit-learn refuses what cannot hold a cluster
        return np.full(len(points), NOISE)
    command = [sys.executable, "-m", "service.hdbscan_process", str(min_size), str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with (
        TemporaryFile() as given,
        TemporaryFile() as said,
        TemporaryFile() as complaint,
    ):  # a pipe would have to be attended to
        np.save(given, points, allow_pickle=False)
        given.seek(0)
        with subprocess.Popen(  # noqa: S603 - our own words
            command, stdin=given, stdout=said, stderr=complaint, env=environment
        ) as child:
            try:
                while child.poll() is None:
                    check()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(_LOOK_S)
            finally:
                child.kill()
        if child.returncode != 0:
            complaint.seek(0)
            lines = complaint.read().decode(errors="replace").strip().splitlines()
            raise ClusteringFailed(f"HDBSCAN ended with {child.returncode}: {lines[-1] if lines else 'no word'}")
        said.seek(0)
        found: Clusters = np.load(said, allow_pickle=False)
        return found


def main(min_size: int, parent: int) -> None:
    """Read points, write their clusters."""
    os.nice(_NICE)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we could ask
            sys.exit("the parent is gone")
    points = np.load(sys.stdin.buffer, allow_pickle=False)
    from sklearn.cluster import HDBSCAN  # heavy, and needed nowhere else

    # a k-d tree, because the other way keeps all distances: 800 MB for 10,000 points
    found = HDBSCAN(min_cluster_size=min_size, algorithm="kd_tree", copy=True).fit_predict(points)
    np.save(sys.stdout.buffer, found.astype(np.int64), allow_pickle=False)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
