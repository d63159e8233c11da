"""Lets mmdet's own scripts run without a compiled mmcv, and with torch 2.6 or newer.

Importing this module puts torchvision's operators in the place of operators that mmcv has not
compiled, makes mmengine load checkpoints without running code in them, and lets PAA's heads fit
their mixture in float64. A config may import it:

    custom_imports = dict(imports=["detkds.detectors.scripts"])

A script that imports mmcv's operators before it reads its config is started by this module:

    python -m detkds.detectors.scripts tools/test.py config.py student.pth
"""

from __future__ import annotations

import runpy
import sys

from .checkpoints import use_safe_loading
from .paa import use_float64_in_paa

use_safe_loading()
use_float64_in_paa()

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("give a script of mmdet and its arguments: tools/test.py config.py student.pth")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
