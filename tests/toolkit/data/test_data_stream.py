"""Streaming and caching: what is read from files, batch by batch, is what would have been read into memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from aurep import AurepError
from aurep.data import ImageData, load_data
from aurep.data.augment import Augment
from aurep.data.encoded import EncodedImages, Files
from aurep.data.loader import DeviceLoader, Loader, make_loader
from aurep.data.memory import available_memory
from aurep.data.stream import StreamLoader
from aurep.data.transforms import ImageTransform, seeded
from aurep.torchvision import import_torchvision
from tests.needs import TORCHVISION_MISSING

SIZE = (12, 16)
EVERYTHING = Augment(resized_crop=(0.2, 1.0), randaugment=(2, 9), cutout=3, mixup=0.2, cutmix=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eleven JPEGs of several sizes, smooth enough that a crop tells where it is from."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cow")):
        (root / name).mkdir()
        for i in range(11):
            coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
            size = (24 + 3 * i, 30 - label)
            coarse.resize(size, Image.Resampling.BICUBIC).save(root / name / f"{i:02}.jpg", quality=95)
    return root


def load(folder: Path, **options: Any) -> ImageData:
    return load_data(f"folder:{folder}", **{"val_fraction": 0.2, "input_size": SIZE, **options})


def train_loader(data: ImageData, **options: Any) -> Loader:
    return make_loader(data, "train", **{"batch_size": 4, "seed": 5, "workers": 0, **options})


def collect(batches: Any) -> list[tuple[Tensor, Tensor]]:
    return [(x.clone(), y.clone()) for x, y in batches]


def assert_equal(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> None:
    assert len(left) == len(right)
    for (x, y), (other_x, other_y) in zip(left, right, strict=True):
        assert torch.equal(y, other_y)
        assert torch.equal(x, other_x)


# --- the same as in memory ---


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_streamed_set_gives_the_bits_of_one_in_memory(folder: Path, workers: int) -> None:
    held, streamed = load(folder, stream="no"), load(folder, stream="yes")
    assert (held.mean, held.std) == (streamed.mean, streamed.std)
    assert (held.image_shape, held.classes) == (streamed.image_shape, streamed.classes)
    for split in ("train", "val", "test"):
        options: dict[str, Any] = {"batch_size": 4, "seed": 3, "augment": Augment(pad=2, cutout=3)}
        loaders = [make_loader(data, split, workers=workers, **options) for data in (held, streamed)]
        assert [type(made) for made in loaders] == [DeviceLoader, StreamLoader]
        assert len(loaders[0]) == len(loaders[1])
        assert_equal(*(collect(made.epoch(1)) for made in loaders))


def test_slices_of_a_streamed_set_are_pixels(folder: Path) -> None:
    held, streamed = load(folder, stream="no"), load(folder, stream="yes")
    assert streamed.x_test.shape == held.x_test.shape
    for chosen in (slice(1, 4), slice(None), np.array([4, 0])):
        np.testing.assert_array_equal(streamed.x_test[chosen], held.x_test[chosen])


@pytest.mark.parametrize("memory", [0, 10**9])
def test_a_set_streams_where_it_would_take_too_much_memory(folder: Path, memory: int) -> None:
    pixels = 33 * 3 * SIZE[0] * SIZE[1]
    assert load(folder, memory=memory).streamed == (memory < pixels)
    assert load(folder, memory=pixels - 1).streamed
    assert not load(folder, memory=pixels).streamed
    assert not load(folder).streamed
    assert not load_data("digits", stream="yes").streamed  # it is in memory already


def test_available_memory_is_what_the_machine_and_the_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() < everything
    for name, text in (("max", "5000\n"), ("current", "3000\n"), ("stat", "anon 9\ninactive_file 400\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr("aurep.data.memory._GROUP", tmp_path)
    assert available_memory() == 2400
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 2400


# --- determinism ---


@pytest.fixture(scope="module")
def torchvision() -> Any:
    """One that is there and cannot be imported is a failure, and nothing to skip."""
    if TORCHVISION_MISSING:
        pytest.skip(TORCHVISION_MISSING)
    return import_torchvision("torchvision.transforms.v2")


def test_batches_are_the_same_whatever_the_workers(folder: Path, torchvision: Any) -> None:
    data = load(folder, stream="yes")
    batches = [collect(train_loader(data, augment=EVERYTHING, workers=workers).epoch(1)) for workers in (0, 1, 2)]
    assert len(batches[0]) == 5
    assert_equal(batches[0], batches[1])
    assert_equal(batches[0], batches[2])
    other_epoch = collect(train_loader(data, augment=EVERYTHING).epoch(2))
    other_seed = collect(train_loader(data, augment=EVERYTHING, seed=6).epoch(1))
    assert not torch.equal(batches[0][0][0], other_epoch[0][0])
    assert not torch.equal(batches[0][0][0], other_seed[0][0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_resumed_epoch_goes_on_with_the_same_bits(folder: Path, torchvision: Any, workers: int, step: int) -> None:
    data = load(folder, stream="yes")
    whole = collect(train_loader(data, augment=EVERYTHING).epoch(3))
    assert_equal(collect(train_loader(data, augment=EVERYTHING, workers=workers).epoch(3, step)), whole[step:])


@pytest.mark.parametrize("augment", [EVERYTHING, Augment(pad=2), None], ids=["everything", "padded", "none"])
def test_ranks_together_see_what_one_process_sees(folder: Path, torchvision: Any, augment: Augment | None) -> None:
    data = load(folder, stream="yes")
    whole = collect(train_loader(data, augment=augment).epoch(3))
    parts = [collect(train_loader(data, augment=augment, rank=rank, world_size=2).epoch(3)) for rank in (0, 1)]
    joined = [tuple(torch.cat(pieces) for pieces in zip(*step, strict=True)) for step in zip(*parts, strict=True)]
    assert_equal(joined, whole)


def test_ranks_share_evaluation_without_gaps_or_doubles(folder: Path) -> None:
    data = load(folder, stream="yes", val_fraction=0)
    options = {"train": False, "batch_size": 6, "workers": 0, "world_size": 2}
    parts = [[x for x, _ in make_loader(data, "train", rank=rank, **options).epoch(0)] for rank in (0, 1)]
    joined = torch.cat([x for step in zip(*parts, strict=True) for x in step])
    np.testing.assert_array_equal(joined.numpy(), data.normalise(data.x_train[:]))


def test_loading_takes_no_random_number_from_the_training(folder: Path, torchvision: Any) -> None:
    data = load(folder, stream="yes")
    for workers in (0, 1):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        list(train_loader(data, augment=EVERYTHING, workers=workers).epoch(0))
        assert torch.equal(torch.rand(3), expected)


SPAWNED = """
import multiprocessing, sys
import torch
from tests.toolkit.data.test_data_stream import EVERYTHING, load, train_loader

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    for cache in (None, sys.argv[2]):
        data = load(sys.argv[1], stream="yes", cache=cache)
        for (x, y), (other_x, other_y) in zip(
            train_loader(data, augment=EVERYTHING, workers=0).epoch(0, 3),
            train_loader(data, augment=EVERYTHING, workers=1).epoch(0, 3),
            strict=True,
        ):
            assert torch.equal(x, other_x) and torch.equal(y, other_y)
"""


def test_workers_may_be_spawned(folder: Path, torchvision: Any, tmp_path: Path) -> None:
    """As they are on other systems than Linux, and everywhere from Python 3.14 on: all they need is handed to them."""
    (tmp_path / "script.py").write_text(SPAWNED)
    root = Path(__file__).parents[3]
    command = [sys.executable, str(tmp_path / "script.py"), str(folder), str(tmp_path / "cache")]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=300)


def test_an_epoch_may_be_left_early_and_begun_again(folder: Path) -> None:
    made = train_loader(load(folder, stream="yes"), workers=2)
    first = next(iter(made.epoch(0)))
    assert torch.equal(next(iter(made.epoch(0)))[0], first[0])


# --- torchvision, called directly ---


def test_random_crops_are_torchvisions_of_the_original_image(folder: Path, torchvision: Any) -> None:
    """Each image of an epoch is RandomResizedCrop of its file for some state of torch's generator, and varied."""
    augment = Augment(resized_crop=(0.2, 0.7), flip=False)
    data = load(folder, stream="yes", interpolation="bicubic", mean=(0, 0, 0), std=(1 / 255,) * 3)
    images: Any = data.x_train
    mode = import_torchvision("torchvision.transforms").InterpolationMode.BICUBIC
    direct = torchvision.RandomResizedCrop(SIZE, scale=(0.2, 0.7), interpolation=mode)
    ours = ImageTransform(augment, SIZE, "bicubic")
    ((x, _),) = train_loader(data, batch_size=len(images), augment=augment).epoch(2)
    order = np.random.default_rng((5, 2)).permutation(len(images))
    for row, image in enumerate(order.tolist()):
        original = Image.open(images.store.name(images.order[image])).convert("RGB")
        with seeded(5, 2, 0, image):
            expected = np.asarray(direct(original)).transpose(2, 0, 1)
        with seeded(5, 2, 0, image):
            np.testing.assert_array_equal(np.asarray(ours(original)).transpose(2, 0, 1), expected)
        np.testing.assert_allclose(x[row].numpy(), expected, atol=1e-3)  # two fp32 roundings of at most 255


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_and_centre_crop_are_torchvisions(folder: Path, torchvision: Any, interpolation: str) -> None:
    data = load(folder, stream="yes", input_size=14, crop_pct=0.875, interpolation=interpolation)
    images: Any = data.x_test
    mode = import_torchvision("torchvision.transforms").InterpolationMode(interpolation)
    direct = torchvision.Compose([torchvision.Resize(16, interpolation=mode), torchvision.CenterCrop(14)])
    for row, number in enumerate(images.order):
        expected = direct(Image.open(images.store.name(number)).convert("RGB"))
        np.testing.assert_array_equal(images.decode(row), np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize(("kind", "options"), [("MixUp", {"mixup": 0.4}), ("CutMix", {"cutmix": 0.4})])
def test_mixing_is_torchvisions_also_in_memory(
    folder: Path, torchvision: Any, kind: str, options: dict[str, float]
) -> None:
    data = load(folder, stream="no")
    plain = collect(train_loader(data, augment=Augment(pad=1)).epoch(0))
    mixed = collect(train_loader(data, augment=Augment(pad=1, **options)).epoch(0))
    direct = getattr(torchvision, kind)(alpha=0.4, num_classes=3)
    shares = set()
    for (x, y), (mixed_x, mixed_y) in zip(plain, mixed, strict=True):
        torch.testing.assert_close(mixed_y.sum(1), torch.ones(4))
        # The share is what torchvision drew; given it, the images and labels must be its own.
        share = _share(y, mixed_y)
        shares.add(round(share, 4))
        expected = direct._mixup_label(y, lam=share)
        torch.testing.assert_close(mixed_y, expected)
        if kind == "MixUp":
            torch.testing.assert_close(mixed_x, share * x + (1 - share) * x.roll(1, 0))
        else:
            kept = (mixed_x == x).all(1)
            assert bool((kept | (mixed_x == x.roll(1, 0)).all(1)).all())
            assert float(kept.double().mean()) == pytest.approx(share, abs=0.15)
    assert len(shares) > 1


def _share(y: Tensor, mixed: Tensor) -> float:
    """By how much the labels `mixed` are their own image's, from one whose neighbour has another label."""
    row = int((y != y.roll(1, 0)).nonzero()[0])
    return float(mixed[row, y[row]])


def test_random_transforms_work_on_sets_in_memory(torchvision: Any) -> None:
    data = load_data("digits", input_size=[10, 12], crop_pct=0.9)
    assert data.image_shape == (1, 10, 12)
    made = [train_loader(data, batch_size=32, augment=EVERYTHING, workers=workers) for workers in (0, 1)]
    assert_equal(*(collect(loader.epoch(1, len(loader) - 2)) for loader in made))
    x, y = next(iter(made[0].epoch(0)))
    assert (x.shape, y.shape) == ((32, 1, 10, 12), (32, 10))


def test_without_torchvision_its_transforms_say_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(AurepError, match=r'torchvision.*pip install "aurep\[imagenet\]"'):
        train_loader(load(folder), augment=EVERYTHING)


# --- errors ---


def test_too_little_shared_memory_is_a_sentence(folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))  # of bytes in a file, and such memory is one
    try:
        with pytest.raises(AurepError, match=r"shared memory for 5 batches.*data\.workers.*--shm-size"):
            collect(train_loader(load(folder, stream="yes"), workers=2).epoch(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_when_it_is_reached(tmp_path: Path, workers: int) -> None:
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.effect_noise((64, 64), 50).save(tmp_path / name / f"{i}.png")
    bad = tmp_path / "bee" / "3.png"
    data = load(tmp_path, stream="yes", mean=(0.5,), std=(0.2,), val_fraction=0)
    bad.write_bytes(bad.read_bytes()[:600])
    loaders = [make_loader(data, split, batch_size=2, workers=workers) for split in ("train", "test")]
    with pytest.raises(AurepError, match=r"bee/3.png is damaged") as caught:
        collect(batch for made in loaders for batch in made.epoch(0))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": (0.5,)}, r"mean has 1 numbers.*3 channels"),
        ({"std": (0.5, 0.0, 1.0)}, r"std is .* positive"),
        ({"crop_pct": 1.5}, r"crop_pct is 1.5"),
        ({"interpolation": "cubic"}, r"'cubic' is unknown.*bicubic"),
        ({"input_size": [0, 4]}, r"input_size is \[0, 4\]"),
    ],
)
def test_errors_of_loading(folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AurepError, match=words):
        load(folder, **options)


@pytest.mark.parametrize(
    "wrong", [{"resized_crop": (0.5, 0.2)}, {"randaugment": (0, 9)}, {"randaugment": (2, 31)}, {"mixup": -1.0}]
)
def test_errors_of_augmentation(wrong: dict[str, Any]) -> None:
    with pytest.raises(AurepError, match=next(iter(wrong))):
        Augment(**wrong)


# --- normalisation, shapes ---


def test_own_mean_and_std_are_what_pixels_are_normalised_by(folder: Path) -> None:
    data = load(folder, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    ((x, _),) = make_loader(data, "test", batch_size=100).epoch(0)
    expected = (data.x_test[:] / 255 - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(12, 16), (16, 12), (14, 14)])
@pytest.mark.parametrize("crop_pct", [None, 1.0, 0.7])
def test_rectangular_inputs(folder: Path, size: tuple[int, int], crop_pct: float | None) -> None:
    data = load(folder, input_size=size, crop_pct=crop_pct)
    assert data.image_shape == (3, *size)
    assert data.x_test.shape[1:] == (3, *size)


def test_a_centre_crop_keeps_the_shape_of_things(tmp_path: Path) -> None:
    """A disc stays a disc where the picture around it is cut, and becomes an ellipse where it is stretched."""
    y, x = np.mgrid[:60, :120]
    disc = ((y - 29.5) ** 2 + (x - 59.5) ** 2 < 20**2).astype(np.uint8) * 255
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.fromarray(disc).save(tmp_path / name / f"{i}.png")
    for crop_pct, round_one in ((1.0, True), (None, False)):
        seen = load(tmp_path, input_size=30, crop_pct=crop_pct, val_fraction=0).x_test[0, 0] > 127
        height, width = seen.any(1).sum(), seen.any(0).sum()
        assert (abs(int(height) - int(width)) <= 1) == round_one


# --- cache ---


def test_cached_pixels_are_the_decoded_ones(folder: Path, tmp_path: Path) -> None:
    plain = load(folder, stream="no")
    cached, again = (load(folder, stream="no", cache=tmp_path) for _ in range(2))
    streamed = load(folder, stream="yes", cache=tmp_path)
    for data in (cached, again, streamed):
        for split in ("x_train", "x_val", "x_test"):
            np.testing.assert_array_equal(getattr(data, split)[:], getattr(plain, split))
    assert isinstance(cached.x_train, np.memmap)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    for data in (cached, streamed):
        assert_equal(collect(train_loader(data, workers=2).epoch(1)), collect(train_loader(plain).epoch(1)))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: ({"input_size": 9}, None),
        lambda folder: ({"interpolation": "lanczos"}, None),
        lambda folder: ({"crop_pct": 0.9}, None),
        lambda folder: ({}, Image.new("RGB", (20, 20)).save(folder / "ant" / "3.png")),
        lambda folder: ({}, (folder / "ant" / "3.png").rename(folder / "ant" / "33.png")),
    ],
    ids=["size", "interpolation", "crop_pct", "content", "name"],
)
def test_the_cache_knows_what_determines_its_pixels(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    store, images = tmp_path / "store", tmp_path / "images"
    for name in ("ant", "bee"):
        (images / name).mkdir(parents=True)
        for i in range(5):
            Image.effect_noise((10 + i, 9), 50).save(images / name / f"{i}.png")
    load(images, cache=store, val_fraction=0)
    options, _ = change(images)
    cached, plain = (load(images, val_fraction=0, cache=cache, **options) for cache in (store, None))
    for split in ("x_train", "x_test"):
        np.testing.assert_array_equal(getattr(cached, split), getattr(plain, split))


KILLED = """
import os, signal, sys
from aurep.data import cache, encoded, load_data
cache._CHUNK, left, decode = 2, [11], encoded.EncodedImages.decode
def counting(self, position):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(self, position)
encoded.EncodedImages.decode = counting
load_data("folder:" + sys.argv[1], input_size=(12, 16), cache=sys.argv[2])
"""


def test_a_killed_build_of_the_cache_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*.npy"))
    (part,) = tmp_path.glob("*.part")
    assert part.stat().st_size > 6 * 3 * SIZE[0] * SIZE[1]
    decoded, decode = [], EncodedImages.decode
    monkeypatch.setattr("aurep.data.cache._CHUNK", 2)
    monkeypatch.setattr(EncodedImages, "decode", lambda self, i: (decoded.append(i), decode(self, i))[1])
    data = load(folder, cache=tmp_path)
    assert 20 <= len(decoded) < 33  # what was on the disk is not decoded again, but for the last chunk
    np.testing.assert_array_equal(data.x_train, load(folder).x_train)
    assert not list(tmp_path.glob("*.part"))


def test_a_cache_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(AurepError, match=r"store.* cannot be written .* data.cache"):
        load(folder, cache=tmp_path / "store")


def test_file_names_of_any_kind_survive_packing(tmp_path: Path) -> None:
    names = ["a/b.png", "a/ü ß.png", "a/" + "x" * 200 + ".png", os.fsdecode(b"a/\xff.png")]
    files = Files(tmp_path, names)
    assert [files.name(i) for i in range(len(files))] == [str(tmp_path / name) for name in names]
