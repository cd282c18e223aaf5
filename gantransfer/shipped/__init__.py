"""What the package carries along: the face list of Glyph-100, small data sets and models, by file name."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent
DATA = ROOT / "data"
PRESETS = ROOT / "presets"
FACE_LIST = ROOT / "glyph100-faces.json"


def data_names() -> list[str]:
    """Names of the shipped data sets, each a file ``shipped/data/NAME.zip``."""
    return sorted(file.stem for file in DATA.glob("*.zip"))


def preset_names() -> list[str]:
    """Names of the published experiments, each a plan ``shipped/presets/NAME.yaml`` of `gantransfer compare`."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))
