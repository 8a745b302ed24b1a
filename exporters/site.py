"""A site as captured: what the one node `ai.aurep::HybridActivation` says of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.exporters.graph import values
from aurep.metadata import SiteClaim, coefficient_digest, mask_digest

DOMAIN = "ai.aurep"
HYBRID = "HybridActivation"


@dataclass(frozen=True, eq=False)
class Site:
    """Mask of shape `shape`; coefficients ascending, (C, degree + 1) or (*shape, degree + 1), None at degree 0."""

    name: str
    degree: int
    mask: NDArray[np.bool_]
    coefficients: NDArray[np.float32] | None

    @property
    def kept(self) -> int:
        return int(self.mask.sum())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mask.shape

    def columns(self) -> list[NDArray[np.float32]]:
        """c0, c1, ... each of a shape that broadcasts against `shape`: [C, 1, 1], [F], or `shape` itself."""
        if self.coefficients is None:
            return []
        rows = self.coefficients.shape[:-1]
        shape = rows + (1,) * (self.mask.ndim - len(rows))
        return [np.ascontiguousarray(self.coefficients[..., k]).reshape(shape) for k in range(self.degree + 1)]

    def claim(self) -> SiteClaim:
        return SiteClaim(
            name=self.name,
            shape=self.shape,
            elements=self.mask.size,
            kept=self.kept,
            degree=self.degree,
            coefficients_sha256=coefficient_digest(self.coefficients),
            mask_sha256=mask_digest(self.mask),
        )


def hybrid_nodes(graph: gs.Graph) -> list[gs.Node]:
    return [node for node in graph.nodes if node.domain == DOMAIN and node.op == HYBRID]


def name_sites(graph: gs.Graph) -> None:
    """Make site names unique, as `aurep.prepare` does: a second call of the same module is `name:1`."""
    seen: dict[str, int] = {}
    for node in hybrid_nodes(graph):
        name = node.attrs["site"]
        calls = seen[name] = seen.get(name, -1) + 1
        node.attrs["site"] = f"{name}:{calls}" if calls else name


def read_site(node: gs.Node) -> Site:
    mask, coefficients = values(node.inputs[1]), values(node.inputs[2]) if len(node.inputs) > 2 else None
    if mask is None or (len(node.inputs) > 2 and coefficients is None):
        raise AurepError(
            f"the mask or the coefficients of site {node.attrs['site']} are computed in the model's forward; aurep "
            "exports fixed masks and coefficients."
        )
    return Site(node.attrs["site"], int(node.attrs["degree"]), mask.astype(bool), coefficients)
