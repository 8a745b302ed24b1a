"""The user's own data: class folders, npz archives, and sets of the optional package `datasets`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aurep import AurepError
from aurep.data import load_data

COLOURS = {"ant": (10, 0, 0), "bee": (20, 0, 0), "cow": (30, 0, 0)}


def write_classes(folder: Path, images: int = 5, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    """Class folders of images whose first channel tells the class; size is width, height."""
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(images):
            Image.new(mode, size, colour if mode == "RGB" else colour[0]).save(folder / name / f"{i}.png")


def assert_labels_fit(x: NDArray[np.uint8], y: NDArray[np.int64]) -> None:
    np.testing.assert_array_equal(x[:, 0, 0, 0], 10 * (y + 1))


def test_class_folders_alone_are_split_in_a_fixed_mixed_order(tmp_path: Path) -> None:
    write_classes(tmp_path)
    data, again = (load_data(f"folder:{tmp_path}", val_fraction=0.25) for _ in range(2))
    assert data.classes == ("ant", "bee", "cow")
    assert data.image_shape == (3, 4, 6)
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (9, 3, 3)
    assert sorted(data.y_test.tolist()) == [0, 1, 2]
    for part in ("train", "val", "test"):
        assert_labels_fit(getattr(data, f"x_{part}"), getattr(data, f"y_{part}"))
    np.testing.assert_array_equal(data.y_train, again.y_train)
    assert data.y_train.tolist() != sorted(data.y_train.tolist())


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folders_train_and_test_or_val(tmp_path: Path, test_name: str) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / test_name, images=2)
    data = load_data(f"folder:{tmp_path}", val_fraction=0.2)
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (12, 3, 6)
    assert_labels_fit(data.x_train, data.y_train)
    assert_labels_fit(data.x_test, data.y_test)


def test_a_val_folder_beside_test_is_the_validation_part(tmp_path: Path) -> None:
    for name, images in (("train", 3), ("val", 2), ("test", 1)):
        write_classes(tmp_path / name, images)
    data = load_data(f"folder:{tmp_path}")
    assert (len(data.x_train), len(data.x_val), len(data.x_test)) == (9, 6, 3)
    assert len(load_data(f"folder:{tmp_path}", val_fraction=0).x_val) == 0


def test_a_folder_of_greyscale_images_has_one_channel_and_a_mixed_one_three(tmp_path: Path) -> None:
    write_classes(tmp_path, mode="L")
    data = load_data(f"folder:{tmp_path}")
    assert data.channels == 1
    assert_labels_fit(data.x_train, data.y_train)
    Image.new("RGBA", (6, 4), (30, 1, 2, 3)).save(tmp_path / "cow" / "colour.png")
    assert load_data(f"folder:{tmp_path}").channels == 3


def test_images_of_differing_sizes_need_input_size(tmp_path: Path) -> None:
    write_classes(tmp_path)
    Image.new("RGB", (9, 9), COLOURS["bee"]).save(tmp_path / "bee" / "large.png")
    with pytest.raises(AurepError, match=r"large.png has 9x9 pixels .* 6x4.*input_size"):
        load_data(f"folder:{tmp_path}")
    data = load_data(f"folder:{tmp_path}", input_size=8)
    assert data.image_shape == (3, 8, 8)
    assert_labels_fit(data.x_train, data.y_train)


def test_what_file_managers_leave_behind_is_passed_over(tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / ".git").mkdir()
    for name in (".DS_Store", "Thumbs.db"):
        (tmp_path / "ant" / name).write_bytes(b"x")
    assert load_data(f"folder:{tmp_path}").num_classes == 3


def test_a_path_is_also_looked_for_in_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "store" / "animals")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_data("folder:animals", tmp_path / "store").num_classes == 3
    with pytest.raises(AurepError, match=r"elsewhere.*store"):
        load_data("folder:plants", tmp_path / "store")


def _truncate(folder: Path) -> None:
    image = folder / "bee" / "0.png"
    Image.effect_noise((64, 64), 50).save(image)
    image.write_bytes(image.read_bytes()[:600])


def _sixteen_bit(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(folder / "bee" / "0.png")


def _only(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for entry in list(folder.iterdir()):
            if entry.name not in names:
                for file in entry.iterdir():
                    file.unlink()
                entry.rmdir()

    return remove


@pytest.mark.parametrize(
    ("damage", "input_size", "words"),
    [
        (_only(), None, ["no class sub-folders"]),
        (_only("ant"), None, ["1 class", "at least 2"]),
        (lambda folder: [file.unlink() for file in folder.rglob("*.png")], None, ["no image"]),
        (lambda folder: (folder / "wasp").mkdir(), None, ["wasp", "no image"]),
        (lambda folder: (folder / "ant" / "notes.txt").write_text("hello"), None, ["notes.txt", "not an image"]),
        (lambda folder: (folder / "ant" / "more").mkdir(), None, ["more", "folder"]),
        (lambda folder: (folder / "train").mkdir(), None, ["train", "neither test nor val"]),
        (_truncate, 8, ["0.png", "damaged"]),
        (_sixteen_bit, None, ["0.png", "eight bits"]),
    ],
)
def test_folder_errors_name_the_file(
    tmp_path: Path, damage: Callable[[Path], object], input_size: int | None, words: list[str]
) -> None:
    write_classes(tmp_path)
    damage(tmp_path)
    with pytest.raises(AurepError) as caught:
        load_data(f"folder:{tmp_path}", input_size=input_size)
    assert all(word in str(caught.value) for word in [str(tmp_path), *words]), caught.value


def test_a_test_class_that_train_lacks_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    (tmp_path / "test" / "dog").mkdir()
    with pytest.raises(AurepError, match=r"dog is a class that the training images lack"):
        load_data(f"folder:{tmp_path}")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(AurepError, match=r"x is not a folder"):
        load_data(f"folder:{tmp_path / 'x'}")


# --- npz ---


def arrays(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    good: dict[str, Any] = {
        "x_train": random.integers(0, 256, (20, 3, 8, 9), dtype=np.uint8),
        "y_train": np.arange(20) % 4,
        "x_test": random.integers(0, 256, (6, 3, 8, 9), dtype=np.uint8),
        "y_test": np.arange(6) % 4,
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def load_npz(folder: Path, **changes: Any) -> Any:
    np.savez(folder / "set.npz", **arrays(**changes))
    return load_data(f"npz:{folder / 'set.npz'}")


def test_npz_in_stored_order(tmp_path: Path) -> None:
    data = load_npz(tmp_path)
    np.testing.assert_array_equal(data.x_train, arrays()["x_train"][:18])
    np.testing.assert_array_equal(data.x_val, arrays()["x_train"][18:])
    assert data.classes == ("0", "1", "2", "3")
    assert data.y_train.dtype == np.int64


def test_npz_channels_last_grey_column_labels_names_and_own_val(tmp_path: Path) -> None:
    good = arrays()
    last = {key: np.moveaxis(good[key], 1, 3) for key in ("x_train", "x_test")}
    np.testing.assert_array_equal(load_npz(tmp_path, **last).x_test, good["x_test"])
    grey = {key: good[key][:, 0] for key in ("x_train", "x_test")}
    assert load_npz(tmp_path, **grey).image_shape == (1, 8, 9)
    data = load_npz(
        tmp_path,
        y_train=good["y_train"][:, None].astype(np.uint8),
        classes=np.array(["a", "b", "c", "d", "e"]),
        x_val=good["x_test"],
        y_val=good["y_test"],
    )
    assert (data.num_classes, len(data.x_train), len(data.x_val)) == (5, 20, 6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, ["'y_test'", "x_train, y_train, x_test"]),
        ({"x_train": np.zeros((20, 3, 8, 9), np.float32)}, ["'x_train'", "float32", "uint8"]),
        ({"x_train": np.zeros((20, 3, 8, 9), np.int64)}, ["'x_train'", "int64", "uint8"]),
        ({"x_train": np.zeros((20, 77), np.uint8)}, ["'x_train'", "(20, 77)"]),
        ({"x_train": np.zeros((20, 3, 8, 3), np.uint8)}, ["'x_train'", "(20, 3, 8, 3)", "channels"]),
        ({"x_train": np.zeros((20, 7, 8, 9), np.uint8)}, ["'x_train'", "channels"]),
        ({"x_test": np.zeros((6, 3, 9, 9), np.uint8)}, ["test", "3x9x9", "3x8x9"]),
        ({"x_test": np.zeros((0, 3, 8, 9), np.uint8), "y_test": np.zeros(0, int)}, ["no test images"]),
        ({"y_train": np.arange(19)}, ["'y_train'", "(19,)", "(20,)"]),
        ({"y_train": np.zeros(20)}, ["'y_train'", "float64", "integer"]),
        ({"y_train": np.arange(20) - 1}, ["'y_train'", "-1"]),
        ({"y_train": np.zeros(20, int)}, ["1 class"]),
        ({"y_train": np.full(20, 5), "y_test": np.full(6, 5)}, ["one class only"]),
        ({"y_train": np.arange(20) + 10**9}, ["'y_train'", "1000000019", "20 images"]),
        ({"y_test": np.arange(6)}, ["test", "0 to 5", "0 to 3"]),
        ({"classes": np.array(["a", "b"])}, ["0 to 3", "0 to 1"]),
        ({"classes": np.arange(4)}, ["'classes'", "names"]),
        ({"y_train": np.array([{}] * 20, object)}, ["'y_train'", "unreadable"]),
        ({"x_val": np.zeros((2, 3, 8, 9), np.uint8)}, ["'y_val'"]),
    ],
)
def test_npz_errors_name_the_key(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(AurepError) as caught:
        load_npz(tmp_path, **changes)
    assert all(word in str(caught.value) for word in ["set.npz", *words]), caught.value


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_npz_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(AurepError, match=r"set.npz cannot be read as an npz archive"):
        load_data(f"npz:{tmp_path / 'set.npz'}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(AurepError, match=r"one.npy is a single array"):
        load_data(f"npz:{tmp_path / 'one.npy'}")


# --- hf ---


class ClassLabel:
    names = ("cat", "dog")


class FakeImage:
    def __init__(self, decode: bool = True) -> None:
        pass


FakeImage.__name__ = "Image"


class Split:
    """What of a `datasets` split the reader uses: its images as they are stored."""

    def __init__(self, rows: list[dict[str, Any]], **features: Any) -> None:
        self.rows, self.features = rows, features or {"img": FakeImage(), "label": ClassLabel()}

    def cast_column(self, _column: str, _feature: FakeImage) -> Split:
        return self

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]


def row(label: int, mode: str = "RGB", size: tuple[int, int] = (5, 4)) -> dict[str, Any]:
    stream = BytesIO()
    Image.new(mode, size, 9 * (label + 1) if mode == "L" else (label, 0, 0)).save(stream, "PNG")
    return {"img": {"bytes": stream.getvalue(), "path": None}, "label": label}


def with_datasets(monkeypatch: pytest.MonkeyPatch, loaded: dict[str, Split]) -> None:
    module = ModuleType("datasets")
    module.load_dataset = lambda name, cache_dir: loaded
    module.Image = FakeImage
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_set_is_read_by_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_datasets(
        monkeypatch, {"train": Split([row(0)] * 6 + [row(1)] * 6), "validation": Split([row(1), row(0, "L")])}
    )
    data = load_data("hf:pets", tmp_path, val_fraction=0.25)
    assert (data.classes, data.image_shape, len(data.x_train), len(data.x_val)) == (("cat", "dog"), (3, 4, 5), 9, 3)
    np.testing.assert_array_equal(data.x_train[:, 0, 0, 0], data.y_train)
    assert data.y_train.tolist() != sorted(data.y_train.tolist())
    assert data.x_test[1].tolist() == np.full((3, 4, 5), 9).tolist()


def test_hub_set_by_the_package_itself(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed (extra hf)")
    for part in ("train", "test"):
        write_classes(tmp_path / "pets" / part)
    held, streamed = (load_data(f"hf:{tmp_path / 'pets'}", tmp_path, stream=stream) for stream in ("no", "yes"))
    assert (held.classes, held.image_shape, len(held.x_test)) == (("ant", "bee", "cow"), (3, 4, 6), 15)
    assert_labels_fit(held.x_train, held.y_train)
    assert streamed.streamed
    np.testing.assert_array_equal(streamed.x_train[:], held.x_train)


def test_hub_set_of_grey_images_has_one_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(0, "L", (8, 8)), row(1, "L", (9, 9)), row(1, "L")]
    with_datasets(monkeypatch, {"train": Split(rows), "test": Split(rows)})
    assert load_data("hf:pets", tmp_path, val_fraction=0, input_size=6).image_shape == (1, 6, 6)
    with pytest.raises(AurepError, match=r"hf:pets train row 1 has 9x9 .*row 0 8x8.*input_size"):
        load_data("hf:pets", tmp_path)


@pytest.mark.parametrize(
    ("loaded", "words"),
    [
        ({"test": Split([row(0)])}, "expected one called train"),
        ({"train": Split([row(0)])}, "no test or validation split"),
        ({"train": Split([row(0)], text=1), "test": Split([row(0)])}, "no column of kind Image among text"),
        ({"train": Split([]), "test": Split([row(0)])}, "empty split"),
    ],
)
def test_hub_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: dict[str, Split], words: str) -> None:
    with_datasets(monkeypatch, loaded)
    with pytest.raises(AurepError, match=f"hf:pets.*{words}"):
        load_data("hf:pets", tmp_path)


def test_hub_without_its_package_or_its_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(AurepError, match=r'pip install "aurep\[hf\]"'):
        load_data("hf:pets", tmp_path)
    with_datasets(monkeypatch, {})

    def fail(name: str, cache_dir: str) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fail)
    with pytest.raises(AurepError, match=r"hf:pets could not be loaded \(ConnectionError: no route to host\)"):
        load_data("hf:pets", tmp_path)
