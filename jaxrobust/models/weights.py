"""The variables of a model."""

from typing import Any

import flax.struct


@flax.struct.dataclass
class Weights:
    """The parameters and the batch statistics of a model."""

    params: Any
    batch_stats: Any

    @property
    def variables(self) -> dict:
        """The variables in the form that `model.apply` expects."""
        return {"params": self.params, "batch_stats": self.batch_stats}
