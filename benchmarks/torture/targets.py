"""What reads files that anybody may have written, as functions of bytes: one of our errors, or a result, within
bounded time and memory. Anything else is a find."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from nasty_images import bad_files, good_files
from picture_files import letters, png
from safetensors.torch import save
from tiny import adapter_of, make_data, make_source
from toy import Toy

import gantransfer as gt
from gantransfer import config, runs, weights
from gantransfer.checkpoint import FILES, load_checkpoint
from gantransfer.cli.runconfig import flatten
from gantransfer.data import ImageData
from gantransfer.decoding import BadImage, decode, fit_image
from gantransfer.defaults import Training
from gantransfer.errors import GanTransferError

SUFFIXES = (".safetensors", ".pth", ".npz")


@dataclass
class Targets:
    """Every target by name, working in `folder`; `seeds` are valid inputs to begin with."""

    folder: Path
    by_name: dict[str, Callable[[bytes], None]] = field(init=False)
    _seeds: dict[str, list[bytes]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.by_name = {
            "weights": self.weights, "checkpoint": self.checkpoint, "adapter": self.adapter, "model": self.model,
            "zip": self.zip, "labels": self.labels, "config": self.config, "image": self.image,
        }

    def run(self, name: str, content: bytes) -> None:
        """One input; the errors that may come of it are swallowed."""
        try:
            self.by_name[name](content)
        except (GanTransferError, BadImage) as error:
            assert str(error).isprintable() or isinstance(error, BadImage), "an error is one line"

    # ---- readers of weights -----------------------------------------------------------------------------

    def weights(self, content: bytes) -> None:
        """A file of tensors; the first byte chooses its suffix, which must not matter."""
        path = self.folder / f"w{SUFFIXES[content[0] % 3] if content else '.pth'}"
        path.write_bytes(content[1:])
        weights.read_networks(path)

    def checkpoint(self, content: bytes) -> None:
        """The JSON of a run's checkpoint, whose manifest agrees with it."""
        place = self.folder / "run" / "checkpoints" / "step-000002"
        files = {FILES[0]: self._state[0], FILES[1]: content}
        manifest = {n: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for n, b in files.items()}
        for name, blob in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            (place / name).write_bytes(blob)
        self._toy.trainer.restore()

    def adapter(self, content: bytes) -> None:
        """``adapter_config.json``, beside sound tensors."""
        folder = self._adapter
        self.seeds("adapter")  # before their file is overwritten
        (folder / "adapter_config.json").write_bytes(content)
        gt.merge(self._gan, folder)

    def model(self, content: bytes) -> None:
        """``config.json``, beside sound networks."""
        self.seeds("model")  # before their file is overwritten
        (self._model / "config.json").write_bytes(content)
        gt.GAN.from_pretrained(self._model)

    # ---- readers of data and settings -------------------------------------------------------------------

    def zip(self, content: bytes) -> None:
        """An archive of images."""
        path = self.folder / "d.zip"
        path.write_bytes(content)
        ImageData(path, size=8, on_bad="skip", allow_tiny=True)

    def labels(self, content: bytes) -> None:
        """``dataset.json`` beside three images."""
        with zipfile.ZipFile(self.folder / "l.zip", "w") as archive:
            archive.writestr("dataset.json", content)
            for name, image in letters({"a": 3}).items():
                archive.writestr(name, image)
        weights.write_json(ImageData(self.folder / "l.zip", size=8, allow_tiny=True).report, self.folder / "l.json")

    def config(self, content: bytes) -> None:
        """``config.yaml`` of a run, or of settings for the command line."""
        path = self.folder / "config.yaml"
        path.write_bytes(content)
        found = config.read_yaml(path)
        try:
            job = runs.Job.from_config(found)
            runs.refuse_incomplete({**found, "method": dict(found["method"])})
            runs.make_method(job.method, job.fields)
        except GanTransferError:
            pass
        flat, known = flatten(found, path), config.field_names(Training)
        config.from_mapping(Training, {k: v for k, v in flat.items() if k in known}, "training").resolve(100, "adapt")

    def image(self, content: bytes) -> None:
        """One image file."""
        for fit in ("crop", "pad", "stretch"):
            fit_image(decode(content)[0], 8, fit, 3)

    # ---- sound inputs -----------------------------------------------------------------------------------

    @cached_property
    def _gan(self) -> gt.GAN:
        return make_source("tables")

    @cached_property
    def _adapter(self) -> Path:
        return adapter_of(self.folder / "made", self._gan, make_data(self.folder / "images"), "abc", "cgantransfer")

    @cached_property
    def _model(self) -> Path:
        return self._gan.save_pretrained(self.folder / "model")

    @cached_property
    def _toy(self) -> Toy:
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        Toy(self.folder / "run", steps=2).trainer.run()
        return Toy(self.folder / "run", steps=4)

    @cached_property
    def _state(self) -> tuple[bytes, bytes]:
        place = self._toy.trainer.out / "checkpoints" / "step-000002"
        return tuple((place / name).read_bytes() for name in FILES)  # type: ignore[return-value]

    def seeds(self, name: str) -> list[bytes]:
        """Inputs that are read without error, and some known nasty ones."""
        if name not in self._seeds:  # the files they come from are overwritten
            self._seeds[name] = getattr(self, f"_{name}_seeds")()
        return self._seeds[name]

    def _weights_seeds(self) -> list[bytes]:
        tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
        old, new, arrays = io.BytesIO(), io.BytesIO(), io.BytesIO()
        torch.save(tensors, new)
        torch.save({"state_dict": tensors, "epoch": 3}, old, _use_new_zipfile_serialization=False)
        import numpy as np

        np.savez(arrays, **{k: v.numpy() for k, v in tensors.items()})
        return [b"\0" + save(tensors), b"\1" + new.getvalue(), b"\1" + old.getvalue(), b"\2" + arrays.getvalue()]

    def _checkpoint_seeds(self) -> list[bytes]:
        assert load_checkpoint(self._toy.trainer.out / "checkpoints")
        return [self._state[1]]

    def _adapter_seeds(self) -> list[bytes]:
        return [(self._adapter / "adapter_config.json").read_bytes()]

    def _model_seeds(self) -> list[bytes]:
        return [(self._model / "config.json").read_bytes()]

    def _zip_seeds(self) -> list[bytes]:
        found = []
        for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", kind) as archive:
                for name, image in letters({"a": 2, "b": 1}).items():
                    archive.writestr(name, image)
            found.append(out.getvalue())
        return found

    def _labels_seeds(self) -> list[bytes]:
        about: dict[str, Any] = {"class_sets": {"x": ["a"]}, "labels": [[name, 0] for name in letters({"a": 3})]}
        return [json.dumps(about).encode(), json.dumps({"class_sets": {"x": ["a"]}}).encode()]

    def _config_seeds(self) -> list[bytes]:
        data = make_data(self.folder / "images")
        job = runs.Job("adapt", "tiny", dict(data.settings), "bsa", {"lr": 0.1})
        return [yaml.safe_dump(job.to_config(self._gan)).encode(), b"steps: 3\nlr_g: 1e-3\nbatch_size: 4\n"]

    def _image_seeds(self) -> list[bytes]:
        small = [good.content for good in good_files().values()] + [content for content, _ in bad_files().values()]
        return [content for content in small if len(content) < 20_000] + [png(3)]
