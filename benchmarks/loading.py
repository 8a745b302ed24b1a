"""Loading images that are larger than memory: how fast beside Pillow alone, and in how much memory.

    python benchmarks/loading.py                # both, a few minutes
    python benchmarks/loading.py --only speed   # or memory

Speed: JPEGs of ImageNet's sizes in pixels and about its size in bytes, generated from noise of all octaves. In
every round each way of reading them reads all of them: Pillow in one process a core, which throws away what it decoded
(decoding alone, and with the crop and resize of training), and aurep's loader with one worker a core, up to normalised
batches. Memory: a folder of 100,000 image files, one epoch; what parent and workers hold, read from the system every
tenth of it. Writes benchmarks/results/loading.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from provenance import RESULTS, markdown_table, provenance

from aurep.training.heap import keep_freed_memory

SIZES = ((500, 375), (500, 333), (375, 500), (500, 375))  # ImageNet's most frequent ones
QUALITY, CONTRAST = 96, 57
DISTINCT, SIDE, BATCH = 100, 224, 64
CROP = (0.08, 1.0)
_WORKERS = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3_000, help="read by each way in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=100_000, help="of the memory measurement")
    parser.add_argument("--only", choices=("speed", "memory"))
    arguments = parser.parse_args()
    path = RESULTS / "loading.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        keep_freed_memory()  # as the command does
        if arguments.only != "memory":
            found["speed"] = speed(Path(folder) / "speed", arguments.images, arguments.rounds) | provenance()
        if arguments.only != "speed":
            found["memory"] = memory(Path(folder) / "memory", arguments.files) | provenance()
    path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(found))
    print(page(found))


# --- images ---


def photograph(number: int, size: tuple[int, int]) -> Image.Image:
    """Noise of all octaves, each 0.8 times as strong as the one below and mostly grey: compresses as photographs do."""
    random, (width, height) = np.random.default_rng(number), size
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        rows, columns = max(2, height * 2**octave // 500), max(2, width * 2**octave // 500)
        noise = random.standard_normal((rows, columns, 3), np.float32)
        noise = 0.8 * noise.mean(2, keepdims=True) + 0.2 * noise
        for channel in range(3):
            plane = Image.fromarray(noise[..., channel]).resize(size, Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(plane) / 2 ** (0.3 * octave)
    total = (total - total.mean()) / total.std()
    return Image.fromarray(np.clip(120 + CONTRAST * total, 0, 255).astype(np.uint8))


def write_folder(folder: Path, files: int, images: list[Image.Image], classes: int = 10) -> list[Path]:
    """`files` names for the images, in class folders, train and test."""
    folder.mkdir(parents=True)
    sources = []
    for i, image in enumerate(images):
        sources.append(folder / f".{i}.jpg")
        image.save(sources[-1], quality=QUALITY)
    for part, number in (("train", files), ("test", classes)):
        for label in range(classes):
            (folder / part / f"{label:03}").mkdir(parents=True)
        for i in range(number):
            os.link(sources[i % len(sources)], folder / part / f"{i % classes:03}" / f"{i:07}.jpg")
    return sources


# --- speed ---


def speed(folder: Path, images: int, rounds: int) -> dict[str, Any]:
    sources = write_folder(folder, images, [photograph(i, SIZES[i % len(SIZES)]) for i in range(DISTINCT)])
    listed = sorted(str(file) for file in (folder / "train").rglob("*.jpg"))
    alone, training, evaluation = "Pillow: decode", "Pillow: training's crop", "Pillow: evaluation's crop"
    # Each way with the one of Pillow that does to an image what it does.
    ways: dict[str, tuple[Callable[[], None], str]] = {
        alone: (lambda: pooled(_decode, listed), alone),
        training: (lambda: pooled(_decode_for_training, listed), training),
        evaluation: (lambda: pooled(_decode_for_evaluation, listed), evaluation),
        "aurep: training, to uint8 batches": (loader(folder, train=True, finish=False), training),
        "aurep: training, normalised on the CPU": (loader(folder, train=True), training),
        "aurep: evaluation, to uint8 batches": (loader(folder, train=False, finish=False), evaluation),
        "aurep: evaluation, normalised on the CPU": (loader(folder, train=False), evaluation),
        "aurep: the same from the cache": (loader(folder, train=False, cache=folder / "cache"), evaluation),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (read, _) in ways.items():
            started, used = time.perf_counter(), processor_seconds()
            read()
            if number:  # the first round warms the page cache
                seconds[name].append(time.perf_counter() - started)
                work[name].append(processor_seconds() - used)
    rows = {
        name: {
            "images_per_second": images / statistics.median(seconds[name]),
            "same": ratio(seconds[same], seconds[name]),
            "same_work": ratio(work[same], work[name]),
            "decoding": ratio(seconds[alone], seconds[name]),
            "decoding_work": ratio(work[alone], work[name]),
        }
        for name, (_, same) in ways.items()
    }
    kilobytes = round(statistics.mean(file.stat().st_size for file in sources) / 1000, 1)
    return {"images": images, "kilobytes": kilobytes, "rounds": rounds, "workers": _WORKERS, "rows": rows}


def ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def pooled(read: Callable[[str], None], files: list[str]) -> None:
    with multiprocessing.get_context("fork").Pool(_WORKERS) as pool:
        for _ in pool.imap_unordered(read, files, chunksize=BATCH):
            pass
        pool.close()
        pool.join()


def _decode(file: str) -> None:
    _decoded(file)


def _decoded(file: str) -> Image.Image:
    return Image.open(file).convert("RGB")


def _decode_for_training(file: str) -> None:
    np.asarray(_transforms()[0](_decoded(file)))


def _decode_for_evaluation(file: str) -> None:
    np.asarray(_transforms()[1](_decoded(file)))


@cache
def _transforms() -> tuple[Any, Any]:
    """What torchvision's users write."""
    from aurep.torchvision import import_torchvision

    v2 = import_torchvision("torchvision.transforms.v2")
    return v2.RandomResizedCrop(SIDE, scale=CROP), v2.Compose([v2.Resize(256), v2.CenterCrop(SIDE)])


def loader(folder: Path, train: bool, finish: bool = True, cache: Path | None = None) -> Callable[[], None]:
    """Reads an epoch; without `finish`, to what a GPU would be sent."""
    import torch

    from aurep.data import load_data
    from aurep.data.augment import Augment
    from aurep.data.stream import StreamLoader

    data = load_data(
        f"folder:{folder}",
        val_fraction=0,
        input_size=SIDE,
        crop_pct=0.875,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        stream="yes",
        cache=cache,
    )
    made = StreamLoader.for_split(
        data,
        "train",
        batch_size=BATCH,
        train=train,
        augment=Augment(resized_crop=CROP),
        workers=_WORKERS,
        memory_format=torch.channels_last,
    )
    if not finish:
        vars(made)["_finish"] = lambda pixels, y, *_: (pixels, y)  # decoding alone is timed

    def read() -> None:
        for _ in made.epoch(0):
            pass

    return read


# --- memory ---


def memory(folder: Path, files: int) -> dict[str, Any]:
    from aurep.data import load_data
    from aurep.data.augment import Augment
    from aurep.data.loader import make_loader

    write_folder(folder, files, [photograph(i, (64, 48)) for i in range(DISTINCT)], classes=100)
    data = load_data(f"folder:{folder}", val_fraction=0, input_size=32, stream="yes")
    made = make_loader(data, "train", batch_size=100, augment=Augment(resized_crop=CROP), workers=_WORKERS)
    rows, steps = [], len(made)
    for step, _ in enumerate(made.epoch(0), start=1):
        if step * 10 % steps < 10 or step == 1:
            workers = [held(process.pid or 0) for process in multiprocessing.active_children()]
            rows.append({"images": 100 * step, "parent": held(os.getpid()), "workers": sum(workers)})
    return {"files": files, "workers": _WORKERS, "rows": rows}


def held(process: int) -> float:
    """MiB in memory (RSS), also of what it shares with other processes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- page ---


def page(found: dict[str, Any]) -> str:
    return "\n".join(["# Loading images that are larger than memory\n", *_speed_page(found), *_memory_page(found)])


def _speed_page(found: dict[str, Any]) -> Iterator[str]:
    if "speed" not in found:
        return
    speed = found["speed"]
    yield (
        f"## Speed\n\nJPEGs of 500x375 and the like, {speed['kilobytes']:g} kB each, to {SIDE}x{SIDE}; "
        f"{speed['images']:,} a round, {speed['rounds']} rounds, interleaved; {speed['workers']} workers. "
        f"{_where(speed)}\nRatio: median over rounds of Pillow's time over this way's in the same round, for Pillow "
        "that does the same to each image, and for Pillow that only decodes. Work: the same of the processor time of "
        "all processes, which what else runs on the machine changes less.\n"
    )
    columns = ("same", "same_work", "decoding", "decoding_work")
    yield markdown_table(
        ["way", "images/s", "to Pillow, the same", "work", "to Pillow, decoding", "work"],
        [
            [name, f"{row['images_per_second']:.0f}", *(f"{row[column]:.3f}" for column in columns)]
            for name, row in speed["rows"].items()
        ],
    )


def _memory_page(found: dict[str, Any]) -> Iterator[str]:
    if "memory" not in found:
        return
    memory = found["memory"]
    yield (
        f"## Memory\n\nOne epoch of {memory['files']:,} files of 64x48 pixels, {memory['workers']} workers. "
        f"{_where(memory)}\nMiB resident, shared libraries included.\n"
    )
    yield markdown_table(
        ["images read", "parent", "workers together"],
        [[f"{row['images']:,}", f"{row['parent']:.1f}", f"{row['workers']:.1f}"] for row in memory["rows"]],
    )


def _where(facts: dict[str, Any]) -> str:
    return f"{facts['hardware']}, {facts['versions']}, {facts['date']}."


if __name__ == "__main__":
    main()
