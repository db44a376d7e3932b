"""Classifier-free guidance in two passes (arXiv:2207.12598)."""

from collections.abc import Callable, Sequence

import torch


def guided(
    predict: Callable[[torch.Tensor], torch.Tensor], embeds: Sequence[torch.Tensor], scale: float
) -> torch.Tensor:
    """The prediction under the first embeddings, led away from that under the second ones where the scale is above 1.

    The arithmetic of the pipelines, in the dtype of what `predict` gives.
    """
    predicted = predict(embeds[0])
    if scale <= 1.0:
        return predicted
    away = predict(embeds[1])
    return away + scale * (predicted - away)
