"""Nets with a name: each a function of the shape of one example and the number of classes.

    model = cnn.Model(zoo.resnet20((32, 32, 3), 10), (32, 32, 3))

input_shape is (h, w, c), for `mlp` also (d,). A ValueError says what a net needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .layers import (
    Affine,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)
from .shapes import integer

Shape = Sequence[int]
Layers = tuple[Layer, ...]


def mlp(input_shape: Shape, classes: int) -> Sequential:
    """Two hidden layers of 256 and 128; the only net here that also takes feature rows (d,)."""
    if len(input_shape) not in (1, 3):
        raise ValueError(f"mlp takes inputs (d,) or (h, w, c), not {tuple(input_shape)}")
    return Sequential(
        (Flatten(), Affine(256), ReLU(), Affine(128), ReLU(), Affine(_classes(classes)))
    )


def convnet(input_shape: Shape, classes: int) -> Sequential:
    """Four 3x3 convolutions with batch normalization and a global average, for small images.

    The average over all pixels leaves few parameters to overfit with: in cross-validation on the
    digits it did no worse than dropout and an affine layer over the flattened pixels."""
    _need_image("convnet", input_shape, 2)
    return Sequential(
        (
            *_conv_norm_relu(32),
            *_conv_norm_relu(32),
            MaxPool2d(2),
            *_conv_norm_relu(64),
            *_conv_norm_relu(64),
            GlobalAvgPool2d(),
            Affine(_classes(classes)),
        )
    )


def lenet(input_shape: Shape, classes: int) -> Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; padded, so that 8x8 images fit."""
    _need_image("lenet", input_shape, 4)
    return Sequential(
        (
            *_conv_relu(6, 5),
            MaxPool2d(2),
            *_conv_relu(16, 5),
            MaxPool2d(2),
            Flatten(),
            Affine(120),
            ReLU(),
            Affine(84),
            ReLU(),
            Affine(_classes(classes)),
        )
    )


def three_layer_convnet(input_shape: Shape, classes: int) -> Sequential:
    """The ThreeLayerConvNet of cs231n's assignment 2, with its default sizes."""
    _need_image("three_layer_convnet", input_shape, 2)
    return Sequential(
        (
            *_conv_relu(32, 7),
            MaxPool2d(2),
            Flatten(),
            Affine(100),
            ReLU(),
            Affine(_classes(classes)),
        )
    )


def vgg6(input_shape: Shape, classes: int) -> Sequential:
    """Two blocks of two 3x3 convolutions, as in Simonyan and Zisserman 2015, and two affine."""
    _need_image("vgg6", input_shape, 4)
    return Sequential(
        (
            *_conv_relu(32, 3),
            *_conv_relu(32, 3),
            MaxPool2d(2),
            *_conv_relu(64, 3),
            *_conv_relu(64, 3),
            MaxPool2d(2),
            Flatten(),
            Affine(128),
            ReLU(),
            Dropout(keep_prob=0.5),
            Affine(_classes(classes)),
        )
    )


def resnet20(input_shape: Shape, classes: int) -> Sequential:
    """The net for CIFAR-10 of He et al. 2016: three stages of three blocks, 16, 32 and 64 wide.

    Where the shape changes, the shortcut is a 1x1 convolution with batch normalization."""
    _need_image("resnet20", input_shape, 4)
    layers = list(_conv_norm_relu(16))
    for width in (16, 32, 64):
        for block in range(3):
            layers += _basic_block(width, stride=2 if width > 16 and block == 0 else 1)
    return Sequential((*layers, GlobalAvgPool2d(), Affine(_classes(classes))))


MODELS: dict[str, Callable[[Shape, int], Sequential]] = {
    "convnet": convnet,
    "lenet": lenet,
    "mlp": mlp,
    "resnet20": resnet20,
    "three_layer_convnet": three_layer_convnet,
    "vgg6": vgg6,
}


def _basic_block(width: int, stride: int) -> Layers:
    body = (*_conv_norm_relu(width, stride), *_conv_norm(width, 3))
    shortcut = _conv_norm(width, 1, stride) if stride > 1 else None
    return Residual(body, shortcut), ReLU()


def _conv_relu(k: int, size: int) -> Layers:
    return Conv2d(k, size, padding="same"), ReLU()


def _conv_norm_relu(k: int, stride: int = 1) -> Layers:
    return (*_conv_norm(k, 3, stride), ReLU())


def _conv_norm(k: int, size: int, stride: int = 1) -> Layers:
    # The normalization subtracts the mean, and with it any bias.
    return Conv2d(k, size, stride, padding=size // 2, bias=False), BatchNorm()


def _need_image(net: str, input_shape: Shape, least: int) -> None:
    if len(input_shape) != 3:
        raise ValueError(f"{net} takes images (h, w, c), not {tuple(input_shape)}; mlp takes both")
    if min(input_shape[:2]) < least:
        raise ValueError(
            f"{net} takes images of at least {least}x{least} pixels, not "
            f"{input_shape[0]}x{input_shape[1]}"
        )


def _classes(classes: int) -> int:
    return integer("classes", classes, 2)
