"""Probes of spatial frequency: the accuracy that a class loses when fine or coarse detail is removed from its images.

Frequencies are in cycles per pixel; the highest frequency of an image, the Nyquist frequency, is 1/2.
"""

import numpy as np

from jaxrobust.explanations.probe import by_class, of_family

_probe = of_family("spatial frequency", "model")

CUTOFF = 0.25  # half of the Nyquist frequency


def low_pass(images, cutoff: float = CUTOFF) -> np.ndarray:
    """Images [n, H, W, C] in [0, 1] without the frequencies above the cutoff, clipped to [0, 1]."""
    return np.clip(_low(images, cutoff), 0.0, 1.0).astype(np.float32)


def high_pass(images, cutoff: float = CUTOFF) -> np.ndarray:
    """Images [n, H, W, C] in [0, 1] with only the frequencies above the cutoff and each channel's mean; clipped."""
    images = np.asarray(images, np.float32)
    high = images - _low(images, cutoff) + images.mean((1, 2), keepdims=True)
    return np.clip(high, 0.0, 1.0).astype(np.float32)


def _low(images, cutoff: float) -> np.ndarray:
    images = np.asarray(images, np.float32)
    down, right = (np.fft.fftfreq(side) for side in images.shape[1:3])
    kept = np.hypot(down[:, None], right[None]) <= cutoff
    return np.fft.ifft2(np.fft.fft2(images, axes=(1, 2)) * kept[None, :, :, None], axes=(1, 2)).real


def _lost(kind):
    def measure(inputs):
        labels, natural, filtered = inputs.filtered(kind)
        return by_class(np.float64(natural) - np.float64(filtered), labels, len(inputs.class_names))

    return measure


FILTERS = {"low_pass": low_pass, "high_pass": high_pass}
PROBES = (
    _probe("low_pass_loss", -1, _lost("low_pass"),
           "Accuracy on natural images that is lost without the frequencies above half the Nyquist frequency."),
    _probe("high_pass_loss", 0, _lost("high_pass"),
           "Accuracy on natural images that is lost without the frequencies below half the Nyquist frequency."),
)  # fmt: skip
