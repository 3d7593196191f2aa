"""Familiar names lead to ours; gradients of plain functions."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cnn

MODEL = cnn.Model([cnn.Affine(3)], (4,))


@pytest.mark.parametrize(
    ("name", "ours"), [("Dense", "Affine"), ("Linear", "Affine"), ("Trainer", "Solver")]
)
def test_other_layers(name, ours):
    with pytest.raises(AttributeError, match=f"no {name}; here it is {ours}"):
        getattr(cnn, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no Frobnicate"):
        cnn.Frobnicate  # noqa: B018
    assert not hasattr(MODEL, "frobnicate")


@pytest.mark.parametrize(
    ("name", "words"), [("fit", "Solver"), ("state_dict", "state"), ("compile", "loss=")]
)
def test_other_methods(name, words):
    with pytest.raises(AttributeError, match=f"no {name}; .*{words}"):
        getattr(MODEL, name)


@pytest.mark.parametrize(
    ("argument", "words"),
    [("optimizer", "update=Adam"), ("epochs", "num_epochs="), ("lr", "update="), ("foo", "no arg")],
)
def test_other_arguments(argument, words):
    with pytest.raises(
        TypeError, match=f"Solver has no argument {argument}" if words == "no arg" else words
    ):
        cnn.Solver(MODEL, update=cnn.SGD(), **{argument: 3})


def test_numerical_gradient_of_plain_functions():
    random = np.random.RandomState(0)
    x, dout = random.standard_normal((2, 3, 4))
    assert cnn.relative_error(cnn.numerical_gradient(lambda v: (v**2).sum(), x), 2 * x) < 1e-8
    found = cnn.numerical_gradient(np.tanh, x, dout)
    assert cnn.relative_error(found, (1 - np.tanh(x) ** 2) * dout) < 1e-7
    want = cnn.reference.affine.backward(dy=dout, x=x, w=np.ones((4, 4)))["dx"]
    got = cnn.numerical_gradient(lambda v: v @ np.ones((4, 4)), x, dout)
    assert cnn.relative_error(got, want, "sum") < 1e-8


def test_relative_error_in_both_definitions():
    a, b = [1.0, 0.0, 2.0], [1.0, 0.0, 1.0]
    assert cnn.relative_error(a, b) == pytest.approx(0.5)
    assert cnn.relative_error(a, b, "sum") == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="definition must"):
        cnn.relative_error(a, b, "mean")
    with pytest.raises(ValueError, match="shapes"):
        cnn.relative_error(a, b[:2])
