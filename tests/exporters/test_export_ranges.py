"""The range certificate of a bundle, against ranges measured by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aurep import fit_polynomials, prepare, relu_sites, set_mask
from aurep.exporters import export
from aurep.metadata import Metadata, RangeClaim
from tests.exporters.exporting import Array


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(2, 5, 3, 1, 1), nn.Conv2d(5, 5, 3, 1, 1), nn.Linear(5, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, Array]:
    torch.manual_seed(0)
    images = torch.randn(40, 2, 8, 8)
    model = prepare(Net().eval(), images[:1], degree=2)
    fit_polynomials(model, [images])
    for site in relu_sites(model):
        set_mask(model, site.name, torch.rand(site.shape) < 0.2)
    return model, images.numpy()


def written(made: tuple[nn.Module, Array], folder: Path, target: str, rows: int = 40) -> RangeClaim | None:
    model, images = made
    samples = images[:rows], np.zeros(rows, np.int64)
    export(model, torch.from_numpy(images[:1]), folder, target, samples=samples)
    return Metadata.check(json.loads((folder / "budget.json").read_text())).ranges


@pytest.mark.parametrize("target", ["onnx", "crypten", "spu", "onnxruntime"])
def test_ranges_are_those_of_the_sites_inputs(made: tuple[nn.Module, Array], target: str, tmp_path: Path) -> None:
    model, images = made
    ranges = written(made, tmp_path / "bundle", target)
    assert ranges is not None
    assert ranges.images == 40
    with torch.no_grad():
        inputs = model.get_submodule("conv1")(torch.from_numpy(images)).numpy()
    first = ranges.sites[0]
    np.testing.assert_allclose(first.low, inputs.min((0, 2, 3)), rtol=1e-4)  # stored with five digits
    np.testing.assert_allclose(first.high, inputs.max((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(first.quantiles[2], np.quantile(inputs, 0.5), atol=1e-4)
    fixed = target in ("crypten", "spu")
    assert (ranges.fraction_bits is not None) is fixed
    assert all((row.headroom_bits is not None) is fixed for row in ranges.sites)


def test_a_framework_with_fewer_fraction_bits_has_more_room(made: tuple[nn.Module, Array], tmp_path: Path) -> None:
    """CrypTen multiplies up to 2^31, SPU up to 2^27."""
    crypten, spu = (written(made, tmp_path / target, target) for target in ("crypten", "spu"))
    assert crypten is not None
    assert spu is not None
    for one, other in zip(crypten.sites, spu.sites, strict=True):
        assert one.headroom_bits is not None
        assert other.headroom_bits is not None
        assert one.headroom_bits - other.headroom_bits == pytest.approx(4, abs=0.02)  # rounded down to 0.01 each
    again = written(made, tmp_path / "again", "crypten")
    assert again == crypten


def test_too_few_images_make_no_certificate(made: tuple[nn.Module, Array], tmp_path: Path) -> None:
    assert written(made, tmp_path / "bundle", "onnx", rows=15) is None
