"""Are the masks and polynomials in the graph those of the checkpoint, or of the claimed digests, bit for bit?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.files import sha256
from aurep.frameworks import FRAMEWORKS
from aurep.metadata import Metadata, SiteClaim, mask_digest
from aurep.validators.report import Check
from aurep.validators.sites.recovery import RecoveredSite

Tensors = Mapping[str, NDArray[Any]]
CHECKPOINT = "model.safetensors"


def check_sites(recovered: Mapping[str, RecoveredSite], metadata: Metadata, run: Path | None) -> Check:
    """Raises AurepError where `run` holds no readable checkpoint."""
    problems, unseen = [], 0
    pushes = metadata.target in FRAMEWORKS and FRAMEWORKS[metadata.target].pushes
    tensors = _stored(run, metadata.training.width_multiplier) if run is not None else None
    if run is not None and metadata.checkpoint not in (None, sha256(run / CHECKPOINT)):
        problems.append(f"The model was exported from another checkpoint than {run / CHECKPOINT}.")
    for claim in metadata.sites:
        site = recovered.get(claim.name)
        fault = _absent(claim) if site is None else _claim_fault(site, claim)
        if fault is None and site is not None and site.moved is not None and not pushes:
            fault = f"its constant has moved into what follows, which files for {metadata.target} do not do"
        if fault is None and tensors is not None:
            fault = _checkpoint_fault(site, claim, tensors)
        if fault is not None:
            problems.append(f"Site {claim.name}: {fault}.")
        elif site is not None and tensors is None and site.has_digest(claim.coefficients_sha256, claim.degree) is None:
            unseen += 1
    claimed = {claim.name for claim in metadata.sites}
    outside = sum(int(site.mask.sum()) for name, site in recovered.items() if name not in claimed)
    spare = metadata.relu_count - sum(claim.kept for claim in metadata.sites)
    right, all_sites = len(metadata.sites) - len(problems), len(metadata.sites)
    if outside > max(spare, 0):
        problems.append(
            f"{outside:,} ReLU elements lie outside the claimed sites, {max(spare, 0):,} are claimed there."
        )
    against = "the checkpoint" if tensors is not None else "the claimed digests"
    hint = " ".join(problems[:5] or _remarks(recovered, unseen, all_sites))
    measured = f"{max(right, 0)} of {all_sites} sites equal {against}"
    return Check("sites", measured, f"all {all_sites}", not problems, hint)


def _remarks(recovered: Mapping[str, RecoveredSite], unseen: int, all_sites: int) -> Iterator[str]:
    pushed = sum(site.moved is not None for site in recovered.values())
    if pushed:
        yield (
            f"Constants have moved out of {pushed} sites into what follows, and the terms of later sites with them: "
            "masks and leading coefficients were compared as they act, the other terms as they are stored, and that "
            "these still act as the site's is for parity to say."
        )
    if unseen:
        yield f"Coefficients that nothing uses are not in the graph ({unseen} of {all_sites} sites)."


def _stored(run: Path, width_multiplier: float | None) -> Tensors:
    """The tensors of the run's checkpoint, at the width multiplier that was exported."""
    if width_multiplier is None:
        return load_checkpoint(run)
    from aurep.training import load_run

    model = load_run(run).narrowed(width_multiplier).model
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def load_checkpoint(run: Path) -> dict[str, NDArray[Any]]:
    """Tensors of a run's final checkpoint."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = run / CHECKPOINT
    if not file.is_file():
        raise AurepError(f"{run} holds no {CHECKPOINT}; give the run folder that `aurep train` wrote.")
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise AurepError(f"{file} is no safetensors file ({error}); train again, or give another run.") from None


def _absent(claim: SiteClaim) -> str | None:
    """A site that keeps nothing and replaces by the identity leaves no nodes behind."""
    if claim.kept == 0 and claim.degree == 0:
        return None
    return "the graph has no nodes of it that compute a ReLU at some elements and a polynomial at the others"


def _claim_fault(site: RecoveredSite, claim: SiteClaim) -> str | None:
    if site.shape != claim.shape:
        return f"its shape is {site.shape} but {claim.shape} is claimed"
    kept = int(site.mask.sum())
    if kept != claim.kept:
        return f"it keeps {kept:,} elements but {claim.kept:,} are claimed"
    if mask_digest(site.mask) != claim.mask_sha256:
        return "its mask is not the claimed one"
    if not _all_identity(site) if claim.degree == 0 else site.coefficients[..., claim.degree + 1 :].any():
        return f"its polynomial is not of the claimed degree {claim.degree}"
    if site.has_digest(claim.coefficients_sha256, claim.degree) is False:
        return "its coefficients are not the claimed ones"
    return None


def _all_identity(site: RecoveredSite) -> bool:
    return bool(site.final.is_identity[~site.mask.reshape(-1)].all())


def _checkpoint_fault(site: RecoveredSite | None, claim: SiteClaim, tensors: Tensors) -> str | None:
    mask = tensors.get(f"{claim.name}.mask")
    if mask is None:
        return "the checkpoint has no such site"
    found = np.zeros(claim.shape, bool) if site is None else site.mask
    if mask.shape != found.shape or not np.array_equal(mask.astype(bool), found):
        return "its mask is not the checkpoint's"
    stored = tensors.get(f"{claim.name}.coefficients")
    if stored is None or site is None:
        return None if claim.degree == 0 else "the checkpoint has no coefficients for it"
    if stored.dtype != np.float32 or stored.shape[-1] != claim.degree + 1:
        return f"the checkpoint's coefficients are {stored.dtype} of shape {stored.shape}"
    rows = stored if stored.shape[:-1] == site.shape else stored.reshape(len(stored), *(1,) * (len(site.shape) - 1), -1)
    wanted = np.broadcast_to(rows, (*site.shape, claim.degree + 1))[~site.mask]
    used = site.coefficients[..., : claim.degree + 1][~site.mask]
    same = (wanted + np.float32(0)).tobytes() == (used + np.float32(0)).tobytes()  # bits, but of zeros no sign
    return None if same else "its coefficients are not the checkpoint's"
