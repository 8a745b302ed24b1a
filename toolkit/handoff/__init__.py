"""Private inference for real: a bundle's samples through a framework, one process a party, measured.

`aurep.frameworks` says what there is, `environment` makes a Python for it, `session` starts the programs in `parties/`
through `processes` and turns what they report into a `Measurement`.
"""

from __future__ import annotations

from aurep.handoff.measurement import Measurement
from aurep.handoff.session import handoff

__all__ = ["Measurement", "handoff"]
