"""What all tests share: how hypothesis looks for examples."""

import pytest
from hypothesis import settings

# No deadline: a busy machine is no defect. The same examples every time: a test that fails here
# fails everywhere.
settings.register_profile("detkds", deadline=None, derandomize=True)
settings.load_profile("detkds")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device (`make gpu-check`)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever runs on "cuda" is part of ``make gpu-check``."""
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and "cuda" in call.params.values():
            item.add_marker(pytest.mark.gpu)
