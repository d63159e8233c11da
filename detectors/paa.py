"""PAA and LAD: their assignment of samples in double precision, so that it never fails."""

from __future__ import annotations

from functools import cache, wraps
from typing import Any

from torch import Tensor

#: The largest loss given to the mixture. scikit-learn adds 1e-6 to every variance. Rounding changes
#: a mean of n squares of this loss by at most n x 1.1e-16 x 1e6: less than 1e-6 for n of thousands.
MAX_FITTED_LOSS = 1e3


@cache
def use_float64_in_paa() -> None:
    """Let mmdet's ``PAAHead``, and heads that inherit its method, fit the mixture in float64.

    Probabilistic Anchor Assignment (Kim and Lee, ECCV 2020, Section 3.2) fits a mixture of two
    Gaussians to the losses of a ground truth's candidates. mmdet gives scikit-learn these losses
    in float32. scikit-learn takes a variance as mean(x²) - mean(x)². For losses from about 10 on
    that are close together, rounding makes this difference negative on one CPU and not on the
    next, and the training ends with "Fitting the mixture model failed". In float64, with losses
    up to :data:`MAX_FITTED_LOSS`, rounding is too small for that. Larger losses count as that loss.

    Where a loss is NaN there is nothing to fit, and scikit-learn would raise. Then the image keeps
    its assignment by overlap. The head's own loss is NaN, as it is with any other head, and
    whoever watches the loss (a trial's rejection, a log) sees it.

    A second call does nothing. mmdet without scikit-learn stays as it is: ``PAAHead`` asks for
    scikit-learn when it is trained. Imports mmdet's models.
    """
    from mmdet.models.dense_heads.paa_head import PAAHead

    stock = PAAHead.paa_reassign

    @wraps(stock)
    def paa_reassign(
        self: Any,
        pos_losses: Tensor,
        label: Tensor,
        label_weight: Tensor,
        bbox_weight: Tensor,
        pos_inds: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        if pos_losses.isnan().any():
            return label, label_weight, bbox_weight, len(pos_inds)
        losses = pos_losses.double().clamp(-MAX_FITTED_LOSS, MAX_FITTED_LOSS)
        return stock(self, losses, label, label_weight, bbox_weight, pos_inds, *args, **kwargs)

    PAAHead.paa_reassign = paa_reassign
