"""The command that the documentation gives for several nodes, as two agents of one process each on this machine."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from aurep.results import read_result
from tests.toolkit.training.tiny import RECIPE

PAGE = Path(__file__).parents[3] / "docs" / "clusters.md"


def documented(**replaced: str) -> list[str]:
    """The page's one torchrun command, with its placeholders replaced, each of which it must have."""
    (command,) = re.findall(r"^    (torchrun .*)$", PAGE.read_text(), re.MULTILINE)
    for placeholder, value in replaced.items():
        assert command.count(placeholder) == 1, placeholder
        command = command.replace(placeholder, value)
    return [sys.executable, "-m", "torch.distributed.run", *shlex.split(command)[1:]]  # what torchrun starts


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_two_nodes_train_one_network(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("epochs = 2", "epochs = 1"))
    command = documented(**{"HOST:29400": f"127.0.0.1:{free_port()}", "node=8": "node=1", "RECIPE": "tiny.toml"})
    settings = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    nodes = [
        subprocess.Popen(
            command, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]
    printed = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(printed)
    result = read_result(tmp_path / "RUN")
    assert result.relu_count == result.relu_budget == 96
