"""`aurep doctor`."""

from __future__ import annotations

import click

_PACKAGES = ("torch", "numpy", "onnx", "onnxscript", "onnx-graphsurgeon", "lightning-fabric", "safetensors", "pydantic")


@click.command("doctor")
def command() -> None:
    """Say what this installation can use: versions, devices, ONNX Runtime providers, where data is looked for."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import onnxruntime
    import torch

    from aurep.data import default_data_dir
    from aurep.kernels import describe

    def line(name: str, value: object) -> None:
        click.echo(f"{name:<22} {value}")

    line("aurep", version("aurep"))
    line("python", f"{platform.python_version()} on {platform.platform()}")
    for name in (*_PACKAGES, "matplotlib", "onnxruntime-gpu", "onnxruntime"):
        try:
            line(name, version(name))
        except PackageNotFoundError:
            line(name, "not installed")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    line("CPU threads", f"{torch.get_num_threads()} of {os.cpu_count()}")
    line("CUDA devices", ", ".join(gpus) or "none found by torch")
    for device, words in describe().items():
        line(device, words)
    line("ONNX Runtime offers", ", ".join(onnxruntime.get_available_providers()))
    line("data folder", default_data_dir())
    both = all(_installed(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    if both:
        click.echo("Both onnxruntime and onnxruntime-gpu are installed and overwrite each other: uninstall one.")
        raise SystemExit(1)


def _installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
