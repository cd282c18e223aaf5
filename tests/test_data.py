"""ImageData: layouts, few-shot subsets, views, the order of images, Hugging Face sets."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import letters, packed, png, tree
from PIL import Image

from gantransfer import order, scan
from gantransfer.data import ImageData
from gantransfer.errors import DataError, UsageError


def test_folder_and_zip_are_equal(tmp_path: Path) -> None:
    members = letters({"b": 3, "a": 4})
    folder = ImageData(tree(tmp_path / "d", members))
    archive = ImageData(packed(tmp_path / "d.zip", members))
    assert folder.classes == archive.classes == ["a", "b"]
    assert folder.labels.tolist() == [0] * 4 + [1] * 3 and folder.labels.dtype == torch.int64
    assert folder.paths == archive.paths == sorted(members)
    assert (folder.size, folder.channels, len(folder), folder.labelled) == (8, 1, 7, True)
    assert folder.images().shape == (7, 1, 8, 8) and folder.images().dtype == torch.uint8
    assert torch.equal(folder.images(), archive.images()) and folder.fingerprint == archive.fingerprint
    assert np.array_equal(folder.images([0])[0, 0].numpy(), np.asarray(Image.open(tmp_path / "d" / folder.paths[0])))
    assert torch.equal(folder.images(torch.tensor([6, 0])), folder.images()[[6, 0]])


def test_zip_with_an_outer_folder(tmp_path: Path) -> None:
    members = letters({"a": 2, "b": 2}, "pets/")
    members["pets/dataset.json"] = json.dumps({"class_sets": {"one": ["b"]}}).encode()
    members["__MACOSX/pets/a/._00.png"] = b"x"
    data = ImageData(packed(tmp_path / "d.zip", members), classes="one")
    assert data.classes == ["b"] and "outer folder 'pets/'" in data.report["warnings"][0]
    assert data.report["ignored"] == 0


def test_splits_and_held_out(tmp_path: Path) -> None:
    members = letters({"a": 4, "b": 4}, "train/") | letters({"a": 3, "b": 2}, "valid/") | letters({"a": 5}, "test/")
    data = ImageData(tree(tmp_path, members))
    assert len(data) == 8
    assert data.held_out("select").per_class_counts() == {"a": 3, "b": 2}
    assert data.held_out("report").per_class_counts() == {"a": 5, "b": 0}
    assert all(path.startswith("test/") for path in data.held_out("report").paths)
    assert data.report["splits"]["val"] == {"a": 3, "b": 2}
    assert len(ImageData(tmp_path, split="all")) == 18
    assert ImageData(tmp_path, split="val").per_class_counts() == {"a": 3, "b": 2}
    assert data.held_out("select").held_out("select") is None


def test_one_held_out_split_is_halved(tmp_path: Path) -> None:
    data = ImageData(tree(tmp_path, letters({"a": 4}, "train/") | letters({"a": 7}, "test/")))
    select, report = data.held_out("select"), data.held_out("report")
    assert (len(select), len(report)) == (4, 3) and not set(select.paths) & set(report.paths)


def test_flat_folders(tmp_path: Path) -> None:
    tree(tmp_path / "flat", {"1.png": png(1), "2.png": png(2)})
    data = ImageData(tmp_path / "flat")
    assert (data.classes, data.labelled, data.labels.tolist()) == (["all"], False, [0, 0])
    named = ImageData(tmp_path / "flat", class_name="okapi")
    assert (named.classes, named.labelled) == (["okapi"], True)
    tree(tmp_path / "split", {"train/1.png": png(1), "train/2.png": png(2), "val/3.png": png(3)})
    assert ImageData(tmp_path / "split").report["splits"] == {"train": {"all": 2}, "val": {"all": 1}}


def test_class_sets_and_requested_order(tmp_path: Path) -> None:
    tree(tmp_path, letters({"a": 2, "b": 2, "c": 2, "x,y": 2}))
    (tmp_path / "dataset.json").write_text(json.dumps({"class_sets": {"pair": ["c", "a"]}}))
    assert ImageData(tmp_path, classes="pair").classes == ["c", "a"]
    data = ImageData(tmp_path, classes="b, a")
    assert data.classes == ["b", "a"] and data.paths[0].startswith("b/") and data.labels.tolist() == [0, 0, 1, 1]
    assert ImageData(tmp_path, classes="x,y").classes == ["x,y"]
    assert data.report["class_sets"] == {"pair": ["c", "a"]}


def test_labels_of_dataset_json(tmp_path: Path) -> None:
    members = {f"0000/{i}.png": png(i) for i in range(4)}
    labels = [[name, i % 2] for i, name in enumerate(members)]
    good = members | {"dataset.json": json.dumps({"labels": labels}).encode()}
    data = ImageData(packed(tmp_path / "d.zip", good))
    assert data.classes == ["0", "1"] and data.paths == ["0000/0.png", "0000/2.png", "0000/1.png", "0000/3.png"]
    wrong = members | {"dataset.json": json.dumps({"labels": labels[1:]}).encode()}
    with pytest.raises(DataError, match="labels 3 files.*4 images.*0000/0.png"):
        ImageData(packed(tmp_path / "w.zip", wrong))
    with pytest.raises(DataError, match="must be a JSON object"):
        ImageData(packed(tmp_path / "x.zip", members | {"dataset.json": b"[1"}))


def test_decomposed_class_names_are_composed(tmp_path: Path) -> None:
    data = ImageData(packed(tmp_path / "d.zip", letters({"И\u0306": 2, "a": 2})), classes="Й")
    assert data.classes == ["Й"] and len(data) == 2


def test_shipped_target() -> None:
    data = ImageData("cyrillic10")
    assert "".join(data.classes) == "БЖИЛЧЩЫЭЯд" and (data.size, data.channels, len(data)) == (32, 1, 1000)
    assert set(data.per_class_counts().values()) == {100}
    assert (len(data.held_out("select")), len(data.held_out("report"))) == (2250, 2260)
    faces = [{path.rpartition("/")[2] for path in part.paths} for part in (data, data.held_out("select"))]
    assert not faces[0] & faces[1]
    assert data.report["bad"] == []


def test_few_shot_subsets(tmp_path: Path) -> None:
    path = packed(tmp_path / "d.zip", letters({"a": 12, "b": 9, "c": 3}))
    data = ImageData(path, per_class=4, seed=1)
    assert data.per_class_counts() == {"a": 4, "b": 4, "c": 3}
    assert "fewer than the 4 images asked for, the first: 'c'" in data.report["warnings"][0]
    alone = ImageData(path, per_class=4, seed=1, classes=["b"])
    assert alone.paths == [name for name in data.paths if name.startswith("b/")]
    assert ImageData(path, per_class=4, seed=2).paths != data.paths
    assert set(ImageData(path, per_class=2, seed=1).paths) < set(data.paths)
    select, report = data.held_out("select"), data.held_out("report")
    parts = [set(data.paths), set(select.paths), set(report.paths)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 24
    assert select.per_class_counts() == {"a": 4, "b": 3, "c": 0} and select.classes == data.classes
    assert report.paths == ImageData(path, per_class=4, seed=1).held_out("report").paths
    assert ImageData(path).held_out("select") is None
    with pytest.raises(UsageError, match="select or report"):
        data.held_out("test")


def test_class_subset(tmp_path: Path) -> None:
    data = ImageData(packed(tmp_path / "d.zip", letters({"a": 6, "b": 5, "c": 4})), per_class=3)
    part = data.class_subset(["c", "a"])
    assert part.classes == ["c", "a"] and part.labels.tolist() == [0] * 3 + [1] * 3
    assert part.held_out("select").per_class_counts() == {"c": 1, "a": 2}
    assert torch.equal(part.class_subset("a").images(), data.images(range(3)))
    assert data.report["n"] == 9 and part.report["counts"] == {"c": 3, "a": 3}
    assert len({data.fingerprint, part.fingerprint}) == 2
    with pytest.raises(UsageError, match="distinct classes"):
        data.class_subset(["z"])


def test_classes_taken_as_one(tmp_path: Path) -> None:
    data = ImageData(packed(tmp_path / "d.zip", letters({"a": 6, "b": 5, "c": 8})), per_class=2)
    view = data.unlabelled()
    assert (view.classes, view.labelled, view.settings) == (["all"], False, data.settings)
    assert torch.equal(view.images(), data.images()) and not view.labels.any() and len(view.labels) == len(data)
    assert view.report["counts"] == {"all": len(data)} and view.fingerprint != data.fingerprint
    for part in ("select", "report"):
        held = view.held_out(part)
        assert held.classes == ["all"] and torch.equal(held.images(), data.held_out(part).images())
    assert data.labelled and len(data.classes) > 1


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_batches_are_a_pure_function_of_seed_and_step(tmp_path: Path, batch_size: int) -> None:
    path = packed(tmp_path / "d.zip", letters({"a": 4, "b": 3}))
    data, again = ImageData(path), ImageData(path)
    shown = torch.cat([data.batch(k, batch_size, seed=5)[2] for k in range(12)])
    for start in range(0, len(shown) - 7, 7):
        assert sorted(shown[start : start + 7].tolist()) == list(range(7))
    # Any batch, asked for alone and by another object, is the same piece of that order.
    images, labels, indices = again.batch(9, batch_size, seed=5)
    assert torch.equal(indices, shown[9 * batch_size : 10 * batch_size])
    assert torch.equal(images, data.images(indices)) and torch.equal(labels, data.labels[indices])
    other = torch.cat([data.batch(k, batch_size, seed=6)[2] for k in range(12)])
    assert not torch.equal(shown, other)


def test_order_never_changes() -> None:
    """Runs are resumed by this order: it may not differ between versions and machines."""
    assert order.permutation(10, 0, 0).tolist() == [7, 8, 9, 1, 0, 6, 4, 3, 2, 5]
    assert order.shuffled(range(8), lambda i: f"a/{i}.png", 0, "a") == [2, 4, 0, 5, 3, 1, 6, 7]


def test_large_sets_are_decoded_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tree(tmp_path, letters({"a": 4, "b": 3}))
    resident = ImageData(path, per_class=3)
    monkeypatch.setattr(scan, "MEMORY_LIMIT", 100)
    lazy = ImageData(path, per_class=3)
    assert resident.report["in_memory"] and not lazy.report["in_memory"]
    assert lazy.fingerprint == resident.fingerprint and torch.equal(lazy.images(), resident.images())
    assert torch.equal(lazy.batch(3, 5, 0)[0], resident.batch(3, 5, 0)[0])
    (path / lazy.paths[0]).unlink()
    with pytest.raises(DataError, match="readable at the scan"):
        lazy.images([0])


def test_pickled_data_reads_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MEMORY_LIMIT", 100)
    data = ImageData(packed(tmp_path / "d.zip", letters({"a": 4})))
    assert torch.equal(pickle.loads(pickle.dumps(data)).images(), data.images())


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    ImageData(tree(tmp_path, letters({"a": 3})), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


class FakeRows(list):
    """The part of a `datasets.Dataset` that is used; checked once against datasets 5.2 by hand."""

    def __init__(self, rows: list[dict], features: dict) -> None:
        super().__init__(rows)
        self.features = features

    def cast_column(self, column: str, feature: object) -> FakeRows:
        assert feature.decode is False
        return self

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@pytest.fixture
def fake_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("datasets")
    module.Image = type("Image", (), {"__init__": lambda self, decode=True: setattr(self, "decode", decode)})
    label = type("ClassLabel", (), {"names": ["cat", "dog"]})()
    tree(tmp_path, {"x.png": png(200)})

    def rows(count: int, labels: bool = True) -> FakeRows:
        cells = [{"bytes": png(i), "path": None} for i in range(count)] + [{"bytes": None, "path": tmp_path / "x.png"}]
        features = {"picture": module.Image()} | ({"label": label} if labels else {})
        return FakeRows([{"picture": cell, "label": i % 2} for i, cell in enumerate(cells)], features)

    sets = {
        "me/pets": {"train": rows(5), "validation": rows(3), "test": FakeRows([{"label": -1}], rows(1).features)},
        "me/plain": rows(3, labels=False),
        "me/text": FakeRows([], {"text": object()}),
    }

    def load_dataset(name: str):
        if name not in sets:
            raise ConnectionError("no such set\nsecond line")
        return sets[name]

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_hub_data(fake_datasets: types.ModuleType) -> None:
    data = ImageData("hf:me/pets", size=8)
    assert data.classes == ["cat", "dog"] and data.per_class_counts() == {"cat": 3, "dog": 3}
    assert data.images()[:, 0, 0, 0].tolist() == [0, 2, 4, 1, 3, 200]
    assert data.held_out("select") is not None and data.report["splits"]["val"] == {"cat": 2, "dog": 2}
    assert len(ImageData("hf:me/pets:validation")) == 4
    assert not ImageData("hf:me/plain").labelled
    for name, words in {
        "hf:me/pets:dev": "split 'dev' is not in 'hf:me/pets': choose from train, validation, test",
        "hf:me/pets:test": "holds no labelled image",
        "hf:me/text": "has no image column",
        "hf:me/gone": "cannot be loaded .ConnectionError: no such set.: check the name",
    }.items():
        with pytest.raises(DataError, match=words) as info:
            ImageData(name)
        assert "\n" not in str(info.value)


def test_hub_data_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"extra 'hf'.*gantransfer\[hf\]"):
        ImageData("hf:me/pets")
