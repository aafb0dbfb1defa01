"""Models of the user's own in the place of the package's: Linen modules as they are, NNX modules by Flax's bridge."""

import inspect
from typing import Any

from flax import linen, nnx
from flax.nnx import bridge

from jaxrobust.errors import FieldError


def adapted(model: Any) -> Any:
    """An object with `init(key, images, train=False)` and `apply(variables, images, train=..., mutable=...)`.

    Raises:
        FieldError: it is neither a Linen nor an NNX module, or one that draws random numbers in training.
    """
    if isinstance(model, nnx.Module):
        if nnx.to_flat_state(nnx.state(model, nnx.RngState)):
            problem = "keeps random numbers, as dropout does, and a training has none of its own for a model"
            raise FieldError("model", type(model).__name__, problem, "leave that layer out")
        return NnxModel(model)
    if not isinstance(model, linen.Module):
        raise FieldError(
            "model", model, "is no name, Linen module or NNX module", "give one whose call is images to logits"
        )
    parameters = inspect.signature(type(model).__call__).parameters.values()
    if not any(parameter.name == "train" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        remedy = "add it, whether or not the model behaves differently in training"
        raise FieldError("model", type(model).__name__, "its call has no argument `train`", remedy)
    return model


class NnxModel:
    """An NNX module as a Linen one: its own parameters at first, and batch statistics as a collection.

    Args:
        module: called with images [B, H, W, C]; `train()` and `eval()` switch batch normalisation.
    """

    def __init__(self, module: nnx.Module):
        def of(train):
            def copied(rngs):
                copy = nnx.clone(module)
                (copy.train if train else copy.eval)()
                return copy

            return bridge.ToLinen(copied, metadata_fn=None)

        self._modes = {train: of(train) for train in (False, True)}

    def init(self, key, images, train: bool = False):
        """The variables, {"params": ..., "batch_stats": ...}, whatever the key."""
        return self._modes[train].init(key, images)

    def apply(self, variables, images, train: bool = False, mutable=False):
        """Logits; and the collections in `mutable`, where there are any."""
        return self._modes[train].apply(variables, images, mutable=mutable)
