"""Masks and coefficients of the graph against a checkpoint's."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import save_file

from aurep.errors import AurepError
from aurep.files import sha256
from aurep.validators import validate
from aurep.validators.checks.sites import check_sites
from aurep.validators.sites.recovery import recover_sites
from tests.validators import graphs


def checkpoint(folder: Path, made: graphs.Hybrid) -> Path:
    folder.mkdir()
    tensors = {"act.mask": made.mask, "act.coefficients": made.coefficients}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_sites_equal_the_checkpoint(tmp_path: Path) -> None:
    made, other = graphs.hybrid(), graphs.hybrid(seed=1)
    run, recovered = checkpoint(tmp_path / "run", made), recover_sites(made.model)
    metadata = graphs.claim(made, checkpoint=sha256(run / "model.safetensors"))
    assert check_sites(recovered, metadata, run).passed
    wrong = check_sites(recovered, metadata, checkpoint(tmp_path / "other", other))
    assert "another checkpoint" in wrong.hint
    assert "mask" in wrong.hint
    swapped = graphs.Hybrid(made.model, made.mask, made.coefficients[::-1].copy())
    wrong = check_sites(recovered, graphs.claim(made), checkpoint(tmp_path / "swapped", swapped))
    assert "coefficients" in wrong.hint


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_a_run_without_a_checkpoint_is_wrong_usage(content: bytes | None, tmp_path: Path, bundle: Path) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(AurepError, match=r"safetensors"):
        validate(bundle, run=tmp_path)
