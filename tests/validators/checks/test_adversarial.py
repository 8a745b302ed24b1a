"""Parity on inputs that no sample is."""

from __future__ import annotations

import copy

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from aurep.validators.checks.adversarial import adversarial_inputs
from aurep.validators.checks.parity import check_parity
from aurep.validators.files.samples import Samples
from aurep.validators.session import Session
from tests.validators import graphs


def samples_of(made: graphs.Hybrid) -> Samples:
    inputs = np.random.default_rng(1).normal(size=(6, *graphs.SHAPE)).astype(np.float32)
    return Samples(inputs, graphs.reference(made.model, inputs))


def test_an_image_at_the_kink_has_an_element_next_to_zero() -> None:
    made = graphs.hybrid()
    samples = samples_of(made)
    found = adversarial_inputs(made.model, samples.inputs, "cpu")
    (image,) = [image for name, image in found.items() if name == "the kink of act/Relu"]
    probed = copy.deepcopy(made.model)
    probed.graph.output.append(helper.make_tensor_value_info("k", onnx.TensorProto.FLOAT, None))
    (relu_input,) = ReferenceEvaluator(probed).run(["k"], {"x": image})
    assert np.abs(relu_input).min() < 1e-4  # the samples' line, some units long, halved twenty times


def test_an_honest_file_passes_and_says_what_tolerance_was_needed() -> None:
    made = graphs.hybrid()
    check = check_parity(made.model, Session(made.model, "cpu"), samples_of(made), None)
    assert check.passed
    assert check.detail["needed_tolerance"] < 1e-5
    assert "would have been enough" in check.hint
    assert len(check.detail["adversarial"]) == 3
    assert sum(check.detail["histogram"]["counts"]) == 6 * graphs.CLASSES


def test_a_bound_that_no_sample_meets_is_found_on_large_inputs() -> None:
    """The same logits as the eager model's on every sample, and others beyond."""
    made = graphs.hybrid()
    samples = samples_of(made)
    honest = copy.deepcopy(made.model)
    most = np.float32(np.abs(samples.logits).max() * 1.01)
    graphs.add_initializers(made.model, most=most.reshape(()), least=(-most).reshape(()))
    head = next(node for node in made.model.graph.node if node.name == "head")
    head.output[0] = "free"
    made.model.graph.node.append(helper.make_node("Clip", ["free", "least", "most"], ["y"], name="bound"))

    def eager(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return graphs.reference(honest, inputs)

    check = check_parity(made.model, Session(made.model, "cpu"), samples, samples, eager)
    assert not check.passed
    assert "On a sample times 4 the scaled error is" in check.hint
    assert check_parity(honest, Session(honest, "cpu"), samples, samples, eager).passed
