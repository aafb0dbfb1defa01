"""What an attack on a set of images found."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Verdicts:
    """The result of `jaxrobust.attack`, one row per image.

    Attributes:
        is_robust: [N] bool, whether the image is classified correctly, clean and under every attack. Verified in
            float32 at the highest matmul precision.
        predictions: [N] int, under attack: of a robust image its label, of one misclassified without an attack that
            prediction, else the class that the attack found; -1, no class, where the logits are not finite there.
        adversarial: [N, H, W, C] float32, the strongest perturbed image found of each, within the threat; the image
            itself where it is misclassified anyway. None if not asked for.
        members: by the name of each attack of the suite, [N] bool, `is_robust` after it; "clean" comes first.
        forward_passes: cost of the attack per image, in forward passes of the model.
        attack, norm, eps: what was asked for; eps in pixel units of [0, 1].
        notes: sentences on what makes the result doubtful, such as signs of gradient masking; usually none.
    """

    is_robust: np.ndarray
    predictions: np.ndarray
    adversarial: np.ndarray | None
    members: dict[str, np.ndarray]
    forward_passes: float
    attack: str
    norm: str
    eps: float
    notes: tuple[str, ...] = ()

    @property
    def robust_accuracy(self) -> float:
        """The share of robust images."""
        return float(self.is_robust.mean())

    @property
    def clean_accuracy(self) -> float:
        """The share of images classified correctly without an attack."""
        return float(self.members["clean"].mean())

    def __len__(self) -> int:
        return len(self.is_robust)

    def __repr__(self) -> str:
        accuracies = f"clean {100 * self.clean_accuracy:.2f} %, robust {100 * self.robust_accuracy:.2f} %"
        what = f"{len(self)} images, {self.attack} {self.norm} eps={self.eps:.4g}"
        return "\n".join((f"Verdicts({what}: {accuracies})", *self.notes))
