"""What all tests share: how hypothesis looks for examples."""

from hypothesis import settings

# No deadline: a busy machine is no defect. The same examples every time: a test that fails here
# fails everywhere.
settings.register_profile("detkds", deadline=None, derandomize=True)
settings.load_profile("detkds")
