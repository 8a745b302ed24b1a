"""A file a verdict: each yields `Check`s, held against the tolerances beside it."""
