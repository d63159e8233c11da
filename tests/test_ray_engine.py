"""What a trial asks Ray for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
from detkds.workers.ray_engine import per_trial
from detkds.workers.settings import Resources


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """Ray counts what it is told it has: no device is touched."""
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_used_without_being_asked_for() -> None:
    assert per_trial(Resources()) == {"cpu": 1, "gpu": 1.0}
    assert per_trial(Resources(gpus=0.5, cpus=2)) == {"cpu": 2, "gpu": 0.5}
    assert per_trial(Resources(gpus=0)) == {"cpu": 1, "gpu": 0}
