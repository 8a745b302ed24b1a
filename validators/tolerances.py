"""Every tolerance of the checks, each with its reason."""

# Largest logit error over the largest logit. fp32 sums in another order stay below 1e-5 through fifty layers; one wrong
# mask element or a coefficient off in its third digit shows above 1e-3.
PARITY_SCALED = 1e-4
# Images whose best two logits lie closer than this share of the largest logit may fall either way.
PARITY_TIE = 2 * PARITY_SCALED
# Accuracy points between the measured and the claimed test accuracy: a few ties in ten thousand images.
ACCURACY_POINTS = 0.1
# Share of images whose class must survive fixed-point rounding.
FIXED_POINT_AGREEMENT = 0.98
