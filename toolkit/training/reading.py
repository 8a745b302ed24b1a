"""Reading finished runs back from their folders."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aurep.data import ImageData, load_data
from aurep.data.drawn import DRAWS, drawn_pixels, steady
from aurep.errors import AurepError
from aurep.files import sha256
from aurep.metadata import Origin, TrainingClaim
from aurep.results import RunResult, read_result
from aurep.surgery import add_narrower, narrowed
from aurep.training.checkpoint import RunFolder, load_weights, read_weights
from aurep.training.config import Config, check_config, read_toml
from aurep.training.setup import build_network, prepare_student

# What an older run's config.toml calls them; read until version 0.2. A recipe must use the new names.
_RENAMED = (("data", "crop", "pad"), ("search", "widths", "width_multipliers"))
_DROPPED = (("search", "refits"), ("finetune", "running_by"))  # which only mattered while it trained


def read_config(path: str | os.PathLike[str]) -> Config:
    """The configuration of the run in folder `path`."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise AurepError(
            f"{folder.path} is not a run folder: it has no config.toml; expected one that aurep train wrote."
        )
    fields = read_toml(folder.config.read_text(), str(folder.config))
    for section, old, new in _RENAMED:
        if old in fields.get(section, {}):
            fields[section][new] = fields[section].pop(old)
    for section, old in _DROPPED:
        fields.get(section, {}).pop(old, None)
    return check_config(fields, str(folder.config))


@dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder, at one of the width multipliers it was trained at."""

    folder: RunFolder
    config: Config
    result: RunResult
    width_multiplier: float = 1.0

    def narrowed(self, width_multiplier: float) -> Run:
        """The same run, with its model at `width_multiplier`. Raises AurepError where it was not trained at it."""
        trained = self.config.search.width_multipliers
        if width_multiplier not in trained:
            known = ", ".join(f"{share:g}" for share in trained)
            raise AurepError(
                f"{self.folder.path} was trained at width multiplier {known}, not {width_multiplier:g}; choose one of "
                "these."
            )
        return replace(self, width_multiplier=width_multiplier)

    @cached_property
    def model(self) -> nn.Module:
        """The prepared network with its final weights and masks, on the CPU, in eval mode."""
        model = self._build(prepared=True)
        add_narrower(model, self.example_input, self.config.search.width_multipliers)
        weights = read_weights(self.folder.model)
        for site in self.result.sites:  # the zoo leaves indicators out
            if f"{site.name}.mask" in weights:
                weights.setdefault(f"{site.name}.alpha", weights[f"{site.name}.mask"].float())
        load_weights(model, weights, self.folder.model)
        return narrowed(model, self.width_multiplier).eval()

    @cached_property
    def teacher(self) -> nn.Module:
        """The all-ReLU network that taught it."""
        model = self._build(prepared=False)
        load_weights(model, read_weights(self.folder.teacher), self.folder.teacher)
        return model.eval()

    @property
    def example_input(self) -> Tensor:
        return torch.zeros(1, *self.result.input.shape)

    @property
    def training(self) -> TrainingClaim:
        """Where the weights come from, with the accuracies at its width multiplier."""
        claim = self.result.training
        for narrow in self.result.narrower:
            if narrow.width_multiplier == self.width_multiplier:
                keys = ("width_multiplier", "val_accuracy", "test_accuracy")
                return claim.model_copy(update={key: getattr(narrow, key) for key in keys})
        return claim

    @property
    def origin(self) -> Origin:
        """What an exported file says of this run."""
        result = self.result
        return Origin(
            relu_budget=result.relu_budget,
            max_sites=result.max_sites,
            input=result.input,
            classes=result.classes,
            training=self.training,
            checkpoint=sha256(self.folder.model),
        )

    def samples(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Up to `count` test images, normalised (n, C, H, W) float32, and their labels (n,).

        Where the run brings none, as in the zoo, they are taken from its data set; where that is not at hand, images
        are drawn at random on which the network is `steady`, and there are no labels, (0,).

        Raises:
            AurepError: there are too few of those.
        """
        if self.folder.samples.is_file():
            with np.load(self.folder.samples, allow_pickle=False) as stored:
                images, labels = stored["images"][:count], stored["labels"][:count]
        else:
            images, labels = self._test_images(count)
        return self._normalised(images), labels.astype(np.int64)

    def _test_images(self, count: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        with suppress(AurepError):
            return self.images.x_test[:count], self.images.y_test[:count]
        rng = np.random.default_rng(0)
        chosen: list[NDArray[np.uint8]] = []
        for _ in range(DRAWS):
            pixels = np.round(255 * drawn_pixels(rng, (count, *self.result.input.shape))).astype(np.uint8)
            images = self._normalised(pixels)
            chosen.extend(pixels[steady(rng, images, self._logits(images), self._logits)])
            if len(chosen) >= count:
                return np.stack(chosen[:count]), np.zeros(0)
        raise AurepError(
            f"{self.folder.path} has no samples, its data set {self.config.data.name} is not at hand, and on only "
            f"{len(chosen)} of {DRAWS * count} images drawn at random its network stays far within fp32, {count} "
            "being needed; name the folder of the data set with --data-dir."
        )

    def _logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = self.model(torch.from_numpy(images)).numpy()
        return found

    @cached_property
    def images(self) -> ImageData:
        """The data set it was trained on, made as the run made it. Raises AurepError where that is not at hand."""
        data, claim = self.config.data, self.result.input
        return load_data(
            data.name,
            data.dir,
            val_fraction=data.val_fraction,
            input_size=claim.shape[1:],
            interpolation=claim.interpolation,
            crop_pct=claim.crop_pct,
            mean=claim.mean,
            std=claim.std,
            stream="yes",
            download=False,
        )

    def calibration(self, count: int) -> tuple[NDArray[np.float32], str]:
        """Up to `count` training images, normalised, and what they are; the run's samples where the data set is not
        at hand, and none, (0, C, H, W), in a run of the zoo.

        Never images that were drawn at random: of real ones their ranges say nothing.
        """
        with suppress(AurepError):
            return self._normalised(self.images.x_train[:count]), f"training images of {self.config.data.name}"
        if not self.folder.samples.is_file():
            return np.zeros((0, *self.result.input.shape), np.float32), "samples"
        return self.samples(count)[0], "samples"

    def _normalised(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        claim = self.result.input
        mean = np.array(claim.mean, np.float32).reshape(-1, 1, 1)
        std = np.array(claim.std, np.float32).reshape(-1, 1, 1)
        return ((images.astype(np.float32) / 255 - mean) / std).astype(np.float32)

    def _build(self, prepared: bool) -> nn.Module:
        network = build_network(self.config, self.result.input.shape, len(self.result.classes))
        return prepare_student(self.config, network, self.example_input) if prepared else network


def load_run(path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> Run:
    """Read the finished run in folder `path`, whose data set lies in `data_dir` now, if not where it found it.

    Raises:
        AurepError: not a run folder, or a run that has not finished.
    """
    config, folder = read_config(path), RunFolder(path)
    if data_dir is not None:
        lies = {"dir": os.path.abspath(os.path.expanduser(data_dir))}
        config = config.model_copy(update={"data": config.data.model_copy(update=lies)})
    return Run(folder, config, read_result(folder.path))
