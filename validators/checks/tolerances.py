"""Every tolerance of the checks, each with its reason."""

# `LOGIT_ROUNDING` is what no comparison of two logits can tell; it counts for nothing, as a class may hardly move.
# `DISTURBANCE` is how far every operand is disturbed to see whether the logits depend on rounding.
from aurep.data.drawn import DISTURBANCE as DISTURBANCE
from aurep.data.drawn import LOGIT_ROUNDING as LOGIT_ROUNDING

# Largest error of a class's logit over half of what it moves between images: for what a bundle stores, those of the
# bundle alone, since drawn ones may move it more, and make room for a changed weight. fp32 sums in another order stay
# below 1e-5 through fifty layers; one wrong mask element or a coefficient off in its third digit shows above 1e-3.
PARITY_SCALED = 1e-4
# Share of a logit's usual size (the median over the classes) that counts as moved at least: fp32 sums of values of that
# size differ by some 1e-7 of it, which PARITY_SCALED of this still holds.
LEAST_SPREAD = 1e-2
# Times the smallest class's size that the usual size may be: sums of one layer are of sizes that far apart at most, and
# where half of the classes are made huge, the others are not held to what is usual among those.
MOST_APART = 100
# Images whose best two logits lie closer than this share of their classes' spread may fall either way.
PARITY_TIE = 2 * PARITY_SCALED
# Accuracy points between the measured and the claimed test accuracy: a few ties in ten thousand images.
ACCURACY_POINTS = 0.1
# Share of images whose class must survive fixed-point rounding. A bundle's samples are a few dozen: one near-tie among
# 64 (1.6 %) may fall the other way, two may not; rounding too coarse for a network changes many.
FIXED_POINT_AGREEMENT = 0.98
# What the disturbance does to a logit of any honest network, as a share of the logit: a dozen layers, each moving it by
# the disturbance once, add up like a random walk to a few times it. A class that images hardly move needs this.
HONEST_MOVE = 16 * DISTURBANCE
# And the values that count as none at all: far above the smallest numbers of fp32 (1e-38), whose rounding is coarse.
NEGLIGIBLE = 1e-30
# Largest movement of a logit, over its class's spread, under that disturbance. Networks of fifty layers stay below
# 1e-3; a step made of rounding moves by dozens of its own height.
ROUNDING_SCALED = 0.05
# As LEAST_SPREAD, where numbers are disturbed: a small logit is a sum of terms of the usual size, which move it by
# HONEST_MOVE of that. LEAST_SPREAD would let logits around a constant of 1000 move by 0.5, whatever they vary by.
LEAST_DISTURBED = HONEST_MOVE / ROUNDING_SCALED
# A claimed polynomial error is rounded to five digits, and made of bounds that were.
RANGE_ROUNDING = 1e-3
# Fewest fraction bits, found on two sets of a few images: a bit halves the error, and a largest error over some hundred
# logits differs by less than that from set to set.
FRACTION_BITS = 1
# Parity of inputs that are no images, over the movement of the logits under `DISTURBANCE` of the input: 64 times what
# fp32 rounds by, so above what the layers' own rounding moves. A wrong mask or coefficient moves logits by far more.
CONDITION_FACTOR = 1.0
