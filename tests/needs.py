"""What some tests need and not every machine has: they skip with the reason, and `make test` installs what it can."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from aurep.kernels import cpu_build

# Looked up, not imported: beside a CPU build of torch, either import needs what aurep does before it.
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed (extra timm)")
TORCHVISION_MISSING = "" if find_spec("torchvision") else "torchvision is not installed (extra imagenet)"
needs_torchvision = pytest.mark.skipif(bool(TORCHVISION_MISSING), reason=TORCHVISION_MISSING)
needs_cpu_kernels = pytest.mark.skipif(not cpu_build.available(), reason=cpu_build.describe())
