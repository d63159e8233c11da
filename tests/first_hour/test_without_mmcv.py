"""Without mmcv, which no requirement installs, a command ends in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "mmcv":
            raise ModuleNotFoundError("No module named 'mmcv'", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["detkds", "train", "quickstart", "--distiller", "none", "--dry-run"]
from detkds.cli import main
main()
"""


def test_a_command_that_needs_mmcv_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("detkds: mmcv is not installed: `pip install 'mmcv-lite>=2.1")
    assert done.stderr.count("\n") == 1
