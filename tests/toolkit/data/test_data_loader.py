"""The device loader against a naive numpy oracle: what it shows, in which order, to which rank, and after a resume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from aurep import AurepError
from aurep.data import ImageData
from aurep.data.augment import Augment, augment_batch, draw
from aurep.data.images import channel_statistics
from aurep.data.loader import DeviceLoader

AUGMENTS = st.builds(
    Augment,
    pad=st.integers(0, 4),
    flip=st.booleans(),
    alternating=st.booleans(),
    cutout=st.integers(0, 4),
)
SEEDS = st.integers(0, 2**40)


def images(number: int, channels: int = 3, height: int = 7, width: int = 6) -> Tensor:
    random = torch.Generator().manual_seed(number)
    return torch.randint(0, 256, (number, channels, height, width), dtype=torch.uint8, generator=random)


def loader(x: Tensor, **options: Any) -> DeviceLoader:
    channels = x.shape[1]
    defaults: dict[str, Any] = {"mean": (0.4,) * channels, "std": (0.2,) * channels, "batch_size": 8, "train": True}
    return DeviceLoader(x, torch.arange(len(x)), **{**defaults, **options})


def oracle(image: NDArray[np.uint8], augment: Augment, top: int, left: int, flip: bool) -> NDArray[np.uint8]:
    """Pad, cut the window out, mirror it: as written in every textbook."""
    pad = ((0, 0), (augment.pad, augment.pad), (augment.pad, augment.pad))
    padded = np.pad(image, pad, mode="reflect")
    window = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return window[:, :, ::-1] if flip and augment.flip else window


@settings(deadline=None, max_examples=60)
@given(AUGMENTS, SEEDS, st.integers(0, 5))
def test_every_image_is_a_window_of_the_padded_image_perhaps_mirrored(augment: Augment, seed: int, epoch: int) -> None:
    x = images(9)
    draws = draw(9, augment, seed, epoch, shuffle=False)
    shown, keep = augment_batch(x, augment, draws)
    for i in range(9):
        parameters = int(draws.top[i]), int(draws.left[i]), bool(draws.flip[i])
        np.testing.assert_array_equal(shown[i].numpy(), oracle(x[i].numpy(), augment, *parameters))
    assert (keep is None) == (augment.cutout == 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), SEEDS)
def test_cutout_hides_one_square_around_a_pixel_of_the_image(side: int, seed: int) -> None:
    x = images(5)
    augment = Augment(pad=0, flip=False, cutout=side)
    draws = draw(5, augment, seed, 0, shuffle=False)
    _, keep = augment_batch(x, augment, draws)
    assert keep is not None
    for i in range(5):
        expected = np.ones((7, 6))
        y, x_ = (int(draws.centre[i, 0] * 7), int(draws.centre[i, 1] * 6))
        expected[max(0, y - side // 2) : y - side // 2 + side, max(0, x_ - side // 2) : x_ - side // 2 + side] = 0
        np.testing.assert_array_equal(keep[i, 0].numpy(), expected)


def test_all_offsets_and_both_ways_occur_about_equally_often() -> None:
    draws = draw(20_000, Augment(pad=2), 1, 0, shuffle=True)
    for offsets in (draws.top, draws.left):
        np.testing.assert_allclose(np.bincount(offsets.numpy()) / 20_000, [0.2] * 5, atol=0.02)
    assert float(draws.flip.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(draws.centre.mean()) == pytest.approx(0.5, abs=0.02)


def test_alternating_flip_shows_each_image_both_ways_in_two_epochs() -> None:
    augment = Augment(alternating=True)
    by_image = []
    for epoch in range(3):
        draws = draw(100, augment, 5, epoch, shuffle=True)
        by_image.append(draws.flip[draws.order.argsort()])
    assert torch.equal(by_image[0], ~by_image[1])
    assert torch.equal(by_image[0], by_image[2])
    assert 30 < int(by_image[0].sum()) < 70


def collect(batches: Any) -> list[tuple[Tensor, Tensor]]:
    return [(x.clone(), y.clone()) for x, y in batches]


def assert_equal(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> None:
    assert len(left) == len(right)
    for (x, y), (other_x, other_y) in zip(left, right, strict=True):
        assert torch.equal(y, other_y)
        assert torch.equal(x, other_x)


@settings(deadline=None, max_examples=30)
@given(AUGMENTS, SEEDS, st.integers(0, 9), st.integers(0, 4))
def test_a_resumed_epoch_goes_on_with_the_same_bits(augment: Augment, seed: int, epoch: int, step: int) -> None:
    x = images(37)
    options = {"augment": augment, "seed": seed}
    whole = collect(loader(x, **options).epoch(epoch))
    assert len(whole) == len(loader(x, **options)) == 4
    assert_equal(collect(loader(x, **options).epoch(epoch, step)), whole[step:])


@settings(deadline=None, max_examples=30)
@given(AUGMENTS, SEEDS, st.sampled_from([2, 4]))
def test_ranks_together_see_what_one_process_sees(augment: Augment, seed: int, world_size: int) -> None:
    x = images(20)
    options = {"augment": augment, "seed": seed}
    parts = [collect(loader(x, rank=rank, world_size=world_size, **options).epoch(3)) for rank in range(world_size)]
    joined = [tuple(torch.cat(pieces) for pieces in zip(*step, strict=True)) for step in zip(*parts, strict=True)]
    assert_equal(joined, collect(loader(x, **options).epoch(3)))


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 6), st.integers(1, 5))
def test_every_image_comes_once_per_epoch(seed: int, steps: int, batch_size: int) -> None:
    x = images(steps * batch_size)
    labels = torch.cat([y for _, y in loader(x, batch_size=batch_size, seed=seed).epoch(0)])
    assert sorted(labels.tolist()) == list(range(steps * batch_size))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    x = images(64)
    seen = {
        (seed, epoch): tuple(torch.cat([y for _, y in loader(x, seed=seed).epoch(epoch)]).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(seen.values())) == 9
    again = loader(x, seed=2)
    list(again.epoch(0))
    assert tuple(torch.cat([y for _, y in again.epoch(1)]).tolist()) == seen[2, 1]


def test_training_drops_the_partial_batch_and_evaluation_keeps_it_in_order() -> None:
    x = images(19)
    assert [len(y) for _, y in loader(x).epoch(0)] == [8, 8]
    evaluation = loader(x, train=False, augment=Augment(cutout=3))
    batches = collect(evaluation.epoch(0))
    assert len(evaluation) == 3
    assert torch.cat([y for _, y in batches]).tolist() == list(range(19))
    expected = (x.float() / 255 - 0.4) / 0.2
    assert torch.equal(torch.cat([x for x, _ in batches]), expected)  # neither cropped, nor flipped, nor cut out


@pytest.mark.parametrize("number", [1, 9, 16, 19])
def test_ranks_share_evaluation_without_gaps_or_doubles(number: int) -> None:
    x = images(number)
    ranks = [[y for _, y in loader(x, train=False, batch_size=9, rank=rank, world_size=2).epoch(0)] for rank in (0, 1)]
    labels = [torch.cat(parts).tolist() for parts in zip(*ranks, strict=True)]
    assert [label for step in labels for label in step] == list(range(number))


def image_data() -> ImageData:
    x, y = images(30).numpy(), np.arange(30) % 3
    mean, std = channel_statistics(x[:20])
    return ImageData("x", x[:20], y[:20], x[20:24], y[20:24], x[24:], y[24:], ("a", "b", "c"), mean, std)


def test_pixels_are_normalised_to_the_bit_as_image_data_does() -> None:
    data = image_data()
    for split in ("train", "val", "test"):
        ((x, y),) = DeviceLoader.for_split(data, split, batch_size=100, train=False).epoch(0)
        np.testing.assert_array_equal(x.numpy(), data.normalise(getattr(data, f"x_{split}")))
        np.testing.assert_array_equal(y.numpy(), getattr(data, f"y_{split}"))
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert DeviceLoader.for_split(data, "train", batch_size=10).train
    assert not DeviceLoader.for_split(data, "val", batch_size=10).train


def test_the_data_is_never_written_to() -> None:
    data = image_data()
    before = data.x_train.copy()
    data.x_train.flags.writeable = False
    loaders = [DeviceLoader.for_split(data, "train", batch_size=5, augment=Augment(cutout=4)), loader(images(8))]
    for _, made in enumerate(loaders):
        for x, y in made.epoch(0):
            x.fill_(9)
            y.fill_(9)
    np.testing.assert_array_equal(data.x_train, before)
    assert torch.equal(loaders[1]._images, images(8))


def test_memory_format() -> None:
    x = images(16)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        ((shown, _),) = loader(x, batch_size=16, memory_format=memory_format, augment=Augment(pad=2)).epoch(0)
        assert shown.is_contiguous(memory_format=memory_format)


def test_cutout_shows_the_mean_colour() -> None:
    ((x, _),) = loader(images(8), augment=Augment(pad=0, flip=False, cutout=20)).epoch(0)
    assert (x == 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 17}, "batch size 17 is above the 16 training images"),
        ({"batch_size": 9, "world_size": 2}, "not a multiple of the 2 processes"),
        ({"rank": 2, "world_size": 2}, "rank 2"),
        ({"seed": -1}, "seed -1"),
        ({"augment": Augment(pad=6)}, "reflected padding of 6 .* 7x6"),
    ],
)
def test_loader_errors(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AurepError, match=words):
        loader(images(16), **options)


def test_a_negative_number_of_pixels_is_refused() -> None:
    for wrong in ({"pad": -1}, {"cutout": -1}):
        with pytest.raises(AurepError, match="augmentation"):
            replace(Augment(), **wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_shows_what_the_cpu_shows() -> None:
    x = images(32)
    options = {"augment": Augment(cutout=3), "seed": 4}
    cuda = [(x.cpu(), y.cpu()) for x, y in loader(x, device="cuda", **options).epoch(1)]
    cpu = collect(loader(x, **options).epoch(1))
    for (left, y), (right, other) in zip(cuda, cpu, strict=True):
        assert torch.equal(y, other)
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)  # a few roundings of fp32: a GPU fuses a * b + c
