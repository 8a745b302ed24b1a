"""Any runtime, with both parts of a site at every element: a baseline."""

from __future__ import annotations

from aurep.frameworks.framework import Framework

FRAMEWORK = Framework("mask", functions=True, fixed_batch=False, compares_everywhere=True)
