"""Models of the user's own in the place of the package's: Linen modules, and NNX modules by Flax's bridge."""

import inspect
from typing import Any

import jax
import numpy as np
from flax import linen, nnx
from flax.errors import InvalidRngError
from flax.nnx import bridge

from jaxrobust.errors import FieldError


def adapted(model: Any, image_shape: tuple[int, int, int], num_classes: int) -> "OwnModel":
    """The module with the interface of the package's models. Raises FieldError if it is neither a Linen nor an NNX
    module, gives no logits for such images, or draws random numbers in evaluation, or in training others than those of
    dropout.
    """
    if isinstance(model, nnx.Module):
        own: OwnModel = NnxModel(model)
    elif isinstance(model, linen.Module):
        parameters = inspect.signature(type(model).__call__).parameters.values()
        if not any(parameter.name == "train" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            remedy = "add it, whether or not the model behaves differently in training"
            raise FieldError("model", type(model).__name__, "its call has no argument `train`", remedy)
        own = LinenModel(model)
    else:
        remedy = "give one whose call is images to logits"
        raise FieldError("model", model, "is no name, Linen module or NNX module", remedy)
    _check(own, type(model).__name__, image_shape, num_classes)
    return own


def _check(model: "OwnModel", name: str, image_shape, num_classes: int) -> None:
    images, key = jax.ShapeDtypeStruct((2, *image_shape), np.float32), jax.random.key(0)
    for train in (False, True):
        rngs = {"dropout": key} if train else None

        def logits(key, images, train=train, rngs=rngs):
            return model.apply(model.init(key, images[:1]), images, train=train, rngs=rngs)

        try:
            shape = jax.eval_shape(logits, key, images).shape
        except InvalidRngError as error:
            problem = f"draws random numbers {'beside dropout' if train else 'in evaluation'}: {error}"
            remedy = "draw from the stream `dropout`, and only if `train`"
            raise FieldError("model", name, problem, remedy) from error
        except Exception as error:  # whatever its code may raise
            problem = f"fails on images {list(images.shape)} with {type(error).__name__}: {error}"[:500]
            raise FieldError("model", name, problem, "give a module that maps images [B, H, W, C] to logits") from error
        if shape != (2, num_classes):
            problem = f"returns {list(shape)} for images {list(images.shape)}"
            raise FieldError("model", name, problem, f"let it return logits [B, {num_classes}], one for each class")


class OwnModel:
    """A module of the user's own, used as the package's models are. A subclass gives `_apply`, and `init`, of which
    the variables {"params": ..., "batch_stats": ...} are.
    """

    def __init__(self, module: Any):
        self.module = module

    def apply(self, variables, images, train: bool = False, mutable=False, rngs: dict | None = None):
        """Logits; and the collections in `mutable`, where there are any."""
        # Flax's batch norm raises in training where its statistics must not move, as in an attack: they move here, and
        # are left behind.
        moving = ["batch_stats"] if train else []
        logits, updates = self._apply(variables, images, train, [*(mutable or ()), *moving], rngs)
        return (logits, {name: updates[name] for name in mutable if name in updates}) if mutable else logits


class LinenModel(OwnModel):
    """A Linen module whose call takes `train`."""

    def init(self, key, images, train: bool = False) -> dict:
        return self.module.init(key, images, train=train)

    def _apply(self, variables, images, train, mutable, rngs):
        return self.module.apply(variables, images, train=train, mutable=mutable, rngs=rngs)


class NnxModel(OwnModel):
    """An NNX module, which stays as it is: its parameters are those at first, whatever the key.

    `train()` and `eval()` of a copy switch batch normalisation and dropout.
    """

    def __init__(self, module: nnx.Module):
        super().__init__(module)

        def of(train):
            def copied(rngs):
                copy = nnx.clone(module)
                (copy.train if train else copy.eval)()
                if "dropout" in rngs:
                    _reseed(copy, rngs.dropout())
                return copy

            return bridge.ToLinen(copied, metadata_fn=None)

        self._modes = {train: of(train) for train in (False, True)}

    def init(self, key, images, train: bool = False) -> dict:
        return self._modes[train].init(key, images)

    def _apply(self, variables, images, train, mutable, rngs):
        return self._modes[train].apply(variables, images, mutable=mutable, rngs=rngs)


def _reseed(module: nnx.Module, key) -> None:
    """Start each stream of random numbers in the module from a key of its own."""
    streams = [node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)]
    for number, stream in enumerate(streams):
        stream.key[...], stream.count[...] = jax.random.fold_in(key, number), 0
