"""Every tolerance of the tests, each with its reason."""

# Closed forms against numerical integration of the same integrals, both in float64: the quadrature grid decides.
QUADRATURE = 1e-7
# Least squares through the normal equations in float64, conditioned by standardising: a few hundred ulps, no more,
# on inputs whose spread is within a factor 1e3 of their offset.
LEAST_SQUARES = 1e-6
# float64 against the naive formula: only the order of operations differs.
FLOAT64 = 1e-10
# fp32 sums over at most 1e4 terms of order 1, against float64.
FLOAT32 = 2e-5
# bf16 keeps 8 bits: the inputs themselves are rounded to 2^-9 relative, and the derivative of a degree-2 site
# reaches 10 on the tested range.
BFLOAT16 = 0.05
# fp16 keeps 11 bits, likewise.
FLOAT16 = 0.01
