"""Feature statistics of the shipped target's splits, for comparing numbers made elsewhere.

    python recipes/shipped_statistics.py

writes ``gantransfer/shipped/data/cyrillic10.statistics.safetensors``: mean [d] and unbiased covariance [d, d] of
every split's `glyph-cnn` features in float64, with the extractor's identity and the number of images as metadata.
gantransfer itself measures from the images, which ship too.
"""

from __future__ import annotations

import json

from safetensors.torch import save_file

from gantransfer.data import ImageData
from gantransfer.features import load_features
from gantransfer.metrics.frechet import mean_and_covariance
from gantransfer.shipped import DATA


def main() -> None:
    extractor = load_features("glyph-cnn")
    tensors, counts = {}, {}
    for split in ("train", "val", "test"):
        data = ImageData("cyrillic10", size=32, channels=1, split=split)
        features, _ = extractor(data.images())
        tensors[f"{split}.mean"], tensors[f"{split}.covariance"] = mean_and_covariance(features)
        counts[split] = len(data)
    path = DATA / "cyrillic10.statistics.safetensors"
    save_file(tensors, path, {"features": extractor.identity, "images": json.dumps(counts)})
    print(f"{path}: {path.stat().st_size} bytes, {counts}, {extractor.identity}")


if __name__ == "__main__":
    main()
