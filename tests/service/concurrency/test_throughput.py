from __future__ import annotations

import pytest

from service.concurrency.throughput import Throughput


def test_the_time_of_an_item_is_that_of_all_lanes_together() -> None:
    throughput = Throughput(passes=5)
    assert throughput.seconds_per_item == 0
    for second in range(0, 20, 2):  # two streams, each two images in two seconds, a second apart
        throughput.record(2, begun=second, ended=second + 2)
        throughput.record(2, begun=second + 1, ended=second + 3)
    assert throughput.seconds_per_item == pytest.approx(0.5, abs=0.05)
    for second in range(100, 150):  # one image a second, and pauses between them that count for nothing
        throughput.record(1, begun=2 * second, ended=2 * second + 1)
    assert throughput.seconds_per_item == pytest.approx(1, abs=0.01)
