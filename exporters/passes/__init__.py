"""Graph passes, one file each, and the order they run in.

A pass takes the onnx-graphsurgeon graph and the target, changes the graph, and leaves it valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_graphsurgeon as gs

from aurep.exporters.passes.attributes import explicit_attributes
from aurep.exporters.passes.batch_norm import fold_batch_norm
from aurep.exporters.passes.constants import fold_constants
from aurep.exporters.passes.identities import remove_identities
from aurep.exporters.passes.lower_opset import lower_opset
from aurep.exporters.passes.naming import name_everything
from aurep.exporters.passes.placing import place_constants
from aurep.exporters.passes.pooling import canonical_pooling
from aurep.exporters.passes.push import push_constants
from aurep.exporters.passes.reshapes import canonical_reshapes
from aurep.exporters.passes.sites import expand_sites
from aurep.exporters.targets import Target

Pass = Callable[[gs.Graph, Target], None]

# Shapes that torch wrote are needed by reshapes and pooling, so whatever adds nodes without shapes comes after them.
ORDER: Sequence[Pass] = (
    fold_constants,
    remove_identities,
    canonical_reshapes,
    canonical_pooling,
    fold_batch_norm,
    lower_opset,
    explicit_attributes,
    push_constants,
    expand_sites,
    name_everything,
    place_constants,
)


def run_passes(graph: gs.Graph, target: Target) -> None:
    for step in ORDER:
        step(graph, target)
        graph.cleanup()
