"""For mmdet's own scripts, where mmcv has no compiled operators or torch is 2.6 or newer.

Imported, it puts torchvision's operators where mmcv has none compiled, lets mmengine load its
checkpoints without executing what they hold, and lets PAA's heads fit their mixture in float64. A
config may name it:

    custom_imports = dict(imports=["detkds.detectors.scripts"])

and a script that imports mmcv's operators before it reads its config is run through it:

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
        sys.exit("give a script of mmdet's and its arguments: tools/test.py config.py student.pth")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
