"""Networks: published ReLU totals, shapes, tracing, and the sentences for what cannot be built."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace

from aurep import AurepError
from aurep.models import MODELS, build_model
from tests.needs import needs_timm

# (model, pixels, stem_relu, published total of ReLU elements)
TOTALS = [
    ("resnet9", 32, False, 245_760),
    ("resnet18", 32, False, 491_520),
    ("resnet18", 32, True, 557_056),
    ("resnet18", 64, False, 1_966_080),
    ("resnet18", 64, True, 2_228_224),
    ("resnet34", 32, False, 901_120),
    ("resnet34", 32, True, 966_656),
    ("resnet20", 32, None, 188_416),
    ("resnet32", 32, None, 303_104),
    ("resnet56", 32, None, 532_480),
    ("resnet20", 32, False, 172_032),
    ("wide_resnet22_8", 32, False, 1_359_872),
    ("wide_resnet22_8", 32, True, 1_392_640),
    ("wide_resnet22_8", 64, False, 5_439_488),
    ("wide_resnet22_8", 64, True, 5_570_560),
    ("vgg16", 32, None, 276_480),
    ("vgg16", 64, None, 1_105_920),
]


def relu_total(model: nn.Module, pixels: int) -> int:
    """Elements that pass through nn.ReLU modules for one image; needs no memory (meta device)."""
    seen: list[int] = []
    model = model.to("meta").eval()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _m, _x, y: seen.append(y.numel()))
    model(torch.empty(1, 3, pixels, pixels, device="meta"))
    return sum(seen)


@pytest.mark.parametrize(("name", "pixels", "stem_relu", "total"), TOTALS)
def test_published_relu_totals(name: str, pixels: int, stem_relu: bool | None, total: int) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=10, input_size=pixels, stem_relu=stem_relu)
    assert relu_total(model, pixels) == total


@pytest.mark.parametrize("name", MODELS)
def test_narrow_network_gives_logits_at_any_size_and_trains(name: str) -> None:
    smallest = MODELS[name].smallest_input
    model = build_model(name, num_classes=7, in_channels=1, width=2, input_size=smallest)
    for height, width in ((smallest, smallest), (smallest + 5, smallest)):
        logits = model.eval()(torch.rand(2, 1, height, width))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
    model.train()(torch.rand(4, 1, smallest, smallest)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_every_network_can_be_traced_and_no_relu_is_shared_or_in_place(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=10, width=4)
    calls = [
        node.target
        for node in symbolic_trace(model).graph.nodes
        if node.op == "call_module" and isinstance(model.get_submodule(str(node.target)), nn.ReLU)
    ]
    relus = [key for key, module in model.named_modules() if isinstance(module, nn.ReLU)]
    assert sorted(map(str, calls)) == sorted(relus)
    assert not any(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))


def test_two_builds_with_one_seed_are_equal() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model("resnet9", num_classes=3, width=2).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet19", {}, ["resnet19", "resnet18", "vgg16", "timm:NAME"]),
        ("resnet9", {"width": 0}, ["width is 0", "at least 1"]),
        ("resnet9", {"width": -8}, ["width is -8"]),
        ("resnet9", {"num_classes": 0}, ["num_classes is 0"]),
        ("resnet9", {"in_channels": 0}, ["in_channels is 0"]),
        ("resnet9", {"input_size": 7}, ["8x8", "7"]),
        ("vgg16", {"input_size": 16}, ["32x32", "16"]),
        ("vgg16", {"stem_relu": True}, ["vgg16", "stem_relu"]),
        ("vgg16", {"stem_relu": False}, ["vgg16", "stem_relu"]),
        ("timm:resnet18", {"width": 8}, ["timm:resnet18", "width"]),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(name: str, options: dict[str, int], words: list[str]) -> None:
    with pytest.raises(AurepError) as caught:
        build_model(name, **{"num_classes": 10, **options})
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.endswith(".")
    assert "\n" not in message


FACTORIES = """
    from torch import nn

    def full(num_classes, in_channels):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes), nn.ReLU(), nn.Linear(num_classes, in_channels))

    def classes_only(num_classes):
        return nn.Linear(4, num_classes)

    def nothing():
        return nn.Linear(4, 2)

    def anything(**options):
        assert set(options) == {"num_classes", "in_channels"}, options
        return nn.Linear(options["in_channels"], options["num_classes"])

    def wide(num_classes, width=3, input_size=1):
        return nn.Linear(width, input_size)

    def broken(num_classes):
        raise RuntimeError("no weights here")

    def positional(a, b):
        return nn.Linear(a, b)

    def text(num_classes):
        return "a model"

    class Net(nn.Module):
        def __init__(self, num_classes=10):
            super().__init__()
            self.fc = nn.Linear(2, num_classes)

    constant = 3
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"users_net_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(FACTORIES))
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize("factory", ["full", "classes_only", "nothing", "anything", "wide", "Net"])
def test_users_factory_gets_the_arguments_that_it_names(users_module: str, factory: str) -> None:
    assert isinstance(build_model(f"{users_module}:{factory}", num_classes=5, in_channels=4), nn.Module)


def test_users_factory_gets_options_set_on_purpose(users_module: str) -> None:
    model = build_model(f"{users_module}:wide", num_classes=5, width=6, input_size=9)
    assert (model.in_features, model.out_features) == (6, 9)


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        ("absent", {}, ["absent"]),
        ("constant", {}, ["constant", "int", "callable"]),
        ("broken", {}, ["broken", "RuntimeError", "no weights here"]),
        ("positional", {}, ["positional", "TypeError"]),
        ("text", {}, ["text", "str", "torch.nn.Module"]),
        ("classes_only", {"width": 8}, ["classes_only", "width"]),
        ("classes_only", {"stem_relu": True}, ["classes_only", "stem_relu"]),
        ("", {}, ["package.module:factory"]),
    ],
)
def test_users_factory_errors_name_it(
    users_module: str, factory: str, options: dict[str, int], words: list[str]
) -> None:
    with pytest.raises(AurepError) as caught:
        build_model(f"{users_module}:{factory}", num_classes=5, **options)
    assert all(word in str(caught.value) for word in [users_module, *words]), caught.value


def test_a_module_that_is_missing_or_fails_is_named(users_module: str) -> None:
    with pytest.raises(AurepError, match=r"no_such_module_here.*cannot be imported"):
        build_model("no_such_module_here:net", num_classes=2)
    Path("fails_on_import_net.py").write_text("1 / 0\n")
    with pytest.raises(AurepError, match=r"fails_on_import_net.*ZeroDivisionError"):
        build_model("fails_on_import_net:net", num_classes=2)


def test_the_working_folder_does_not_stay_on_the_import_path(users_module: str, tmp_path: Path) -> None:
    import sys

    build_model(f"{users_module}:nothing", num_classes=2)
    assert str(tmp_path) not in sys.path


def test_timm_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(AurepError, match=r'pip install "aurep\[timm\]"'):
        build_model("timm:resnet18", num_classes=10)


@needs_timm
def test_timm_efficientnet_b2_has_its_published_activations() -> None:
    with torch.device("meta"):
        model = build_model("timm:efficientnet_b2", num_classes=1000).eval()
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.SiLU):
            module.register_forward_hook(lambda _m, _x, y: seen.append(y.numel()))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert sum(seen) == 8_804_162


@needs_timm
def test_timm_unknown_name_is_named() -> None:
    with pytest.raises(AurepError, match="resnet_of_dreams"):
        build_model("timm:resnet_of_dreams", num_classes=10)
