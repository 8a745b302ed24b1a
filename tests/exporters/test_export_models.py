"""Whole networks, prepared by aurep, against their eager modules; the oracle is the ONNX reference evaluator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aurep import AurepError, HybridActivation, fit_polynomials, prepare, relu_sites, set_mask
from aurep.exporters import export
from aurep.metadata import Metadata, Origin
from aurep.models import build_model
from tests.exporters.exporting import NET, Block, assert_scaled, classifier, example, ops, randomise, run, small_net


class Functional(nn.Module):
    """F.relu, torch.relu and x.relu(), a channel shuffle, max-pooling and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.head = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        n, c, h, w = x.shape
        x = torch.relu(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w) - 0.1)
        x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 2, 2).relu()[:, :, :3, :3]
        return self.head(x.reshape(x.size(0), -1))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.cat([self.relu(self.left(x)), self.relu(self.right(x))], 1).chunk(2, 1)
        return torch.cat([b, a], 1)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(self.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Perceptron(nn.Module):
    """(N, F) sites only, with batch norm before and after the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(72, 5), nn.Linear(5, 3)
        self.before, self.after = nn.BatchNorm1d(5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.after(F.relu(self.before(self.first(x.flatten(1))))))


class TwoSites(nn.Module):
    """An add whose two inputs are activations of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.left(x)) + F.relu(self.right(x))


NETWORKS = {
    "add-of-two-sites": lambda: classifier(TwoSites(), nn.ReLU()),
    "strided-residual": lambda: classifier(Block(2, 4, 2), Block(4, 4, 1)),
    "pre-activation": lambda: classifier(
        Block(2, 4, 2, pre=True), Block(4, 4, 1, pre=True), nn.BatchNorm2d(4), nn.ReLU()
    ),
    "grouped": lambda: classifier(Block(2, 4, 1, groups=2)),
    "depthwise": lambda: classifier(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.ReLU6()),
    "functional": Functional,
    "concat": lambda: classifier(Concat(), nn.ReLU()),
    "squeeze-excite": lambda: classifier(nn.Conv2d(2, 4, 1), nn.ReLU(), SqueezeExcite()),
    "perceptron": Perceptron,
}


def eager(model: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(x).numpy())


@pytest.mark.parametrize(
    ("name", "batch"), [(name, "dynamic") for name in NETWORKS] + [("strided-residual", 2), ("functional", 2)]
)
def test_exported_network_is_the_eager_one(name: str, batch: int | str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(prepare(NETWORKS[name]().eval(), example()).eval(), seed=3)
    file = export(model, example(1), tmp_path / "m.onnx", batch=batch)
    for rows in (2,) if batch == 2 else (1, 2, 3):
        x = example(rows, seed=7)
        assert_scaled(run(file, x.numpy()), eager(model, x), NET)
    saved = onnx.load(file)
    assert not {"BatchNormalization", "Identity", "HybridActivation"} & set(ops(saved))
    first = saved.graph.input[0].type.tensor_type.shape.dim[0]
    assert (first.dim_param, first.dim_value) == (("batch", 0) if batch == "dynamic" else ("", 2))


REFUSED = {("crypten", "concat"): "Split", ("crypten", "functional"): "Pad"}  # operators that CrypTen lacks


@pytest.mark.parametrize("target", ["onnxruntime", "mask", "crypten", "spu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_reaches_every_target(name: str, target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(prepare(NETWORKS[name]().eval(), example()).eval(), seed=4)
    if (target, name) in REFUSED:
        with pytest.raises(AurepError, match=f"target {target} cannot take this model: {REFUSED[target, name]} node"):
            export(model, example(1), tmp_path / "m.onnx", target)
        return
    file = export(model, example(1), tmp_path / "m.onnx", target, batch=2)
    x = example(2, seed=8)
    assert_scaled(run(file, x.numpy()), eager(model, x), NET)


# Twenty to forty layers of sums over up to 300 terms: fp32 keeps 1e-5 of the largest logit.
DEEP = 1e-5


@pytest.mark.parametrize(
    ("name", "width", "size", "target"),
    [
        ("resnet18", 4, 16, "crypten"),
        ("resnet18", 4, 16, "onnxruntime"),
        ("resnet34", 2, 16, "spu"),
        ("wide_resnet22_8", 8, 8, "crypten"),
        ("vgg16", 4, 32, "spu"),
        ("vgg16", 4, 32, "crypten"),
    ],
)
def test_real_networks_reach_the_frameworks(name: str, width: int, size: int, target: str, tmp_path: Path) -> None:
    """aurep's own networks, narrow. Polynomials are fitted: random ones would grow without bound over so many
    layers."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, size, size)
    model = prepare(build_model(name, num_classes=4, width=width, input_size=size).eval(), x[:1])
    for site in relu_sites(model):
        set_mask(model, site.name, torch.rand(site.shape) < 0.3)
    fit_polynomials(model, [x])
    fit_polynomials(model, [x])
    file = export(model, x[:1], tmp_path / "m.onnx", target, batch=2)
    assert_scaled(run(file, x.numpy()), eager(model, x), DEEP)


@pytest.mark.parametrize(
    ("degree", "density", "coefficients"),
    [(0, 0.0, "channel"), (0, 0.3, "channel"), (1, 0.3, "element"), (2, 0.3, "element")],
)
def test_degrees_and_densities(degree: int, density: float, coefficients: str, tmp_path: Path) -> None:
    model = small_net(degree=degree, density=density, coefficients=coefficients)
    file = export(model, example(), tmp_path / "m.onnx")
    x = example(3, seed=9)
    assert_scaled(run(file, x.numpy()), eager(model, x), NET)
    assert ("Relu" in ops(onnx.load(file))) == (density > 0)


def test_a_plain_network_keeps_its_relus(tmp_path: Path) -> None:
    model = classifier(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.MaxPool2d(2)).eval()
    file = export(model, example(), tmp_path / "m.onnx")
    metadata = Metadata.from_props({p.key: p.value for p in onnx.load(file).metadata_props})
    assert metadata.sites == ()
    assert (metadata.relu_count, metadata.relu_total, metadata.relu_budget) == (144, 144, 144)
    assert metadata.comparisons == {"MaxPool": 3 * 36, "Relu": 144}
    assert_scaled(run(file, example().numpy()), eager(model, example()), NET)


def test_a_relu_outside_all_sites_counts_as_kept(tmp_path: Path) -> None:
    site = HybridActivation((4, 6, 6), 2, "act")
    model = classifier(nn.Conv2d(2, 4, 1), site, nn.ReLU()).eval()
    site.set_mask(torch.zeros(4, 6, 6))
    file = export(model, example(), tmp_path / "m.onnx")
    metadata = Metadata.from_props({p.key: p.value for p in onnx.load(file).metadata_props})
    assert (metadata.relu_count, metadata.relu_total) == (144, 288)
    with pytest.raises(AurepError, match=r"keeps 144 ReLU elements \(144 of them in no site\), but its budget is 100"):
        export(model, example(), tmp_path / "m.onnx", origin=Origin(relu_budget=100))


def test_a_module_called_twice_is_two_sites(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = HybridActivation((2, 6, 6), 2, "act")

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.act(x) - 1).mean((2, 3))

    file = export(Twice().eval(), example(), tmp_path / "m.onnx")
    metadata = Metadata.from_props({p.key: p.value for p in onnx.load(file).metadata_props})
    assert [site.name for site in metadata.sites] == ["act", "act:1"]
    assert {node.name for node in onnx.load(file).graph.node} >= {"act/Relu", "act:1/Relu"}


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = small_net()
    model.train()
    first = next(model.children())
    first.eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, example(), tmp_path / "m.onnx")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_half_precision_and_channels_last_are_exported_in_float32(tmp_path: Path) -> None:
    model = small_net()
    straight = export(model, example(), tmp_path / "a.onnx").read_bytes()
    last = export(model.to(memory_format=torch.channels_last), example(), tmp_path / "b.onnx").read_bytes()
    assert last == straight
    half = export(model.to(torch.float64), example(), tmp_path / "c.onnx").read_bytes()
    assert half == straight
    assert next(model.parameters()).dtype == torch.float64


def test_masks_in_the_file_follow_the_model(tmp_path: Path) -> None:
    model = small_net()
    site = relu_sites(model)[0]
    set_mask(model, site.name, torch.zeros(site.shape))
    saved = onnx.load(export(model, example(), tmp_path / "m.onnx"))
    assert f"{site.name}/Relu" not in {node.name for node in saved.graph.node}
