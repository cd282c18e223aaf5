"""Where an iteration's time goes: by phase, and by operation.

    python benchmarks/profile.py                       # every workload of benchmarks/workloads.py
    python benchmarks/profile.py --work "adafm 128" --form plain

The work is done in `benchmarks/iteration_time.py`. A module called ``profile`` hides the standard library's from
scripts in this folder, so on import this one gives way to it.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

if __name__ == "profile":
    spec = importlib.util.spec_from_file_location("profile", Path(sysconfig.get_path("stdlib")) / "profile.py")
    assert spec is not None and spec.loader is not None
    sys.modules["profile"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["profile"])
elif __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.iteration_time import main

    main()
