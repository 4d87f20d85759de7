"""RMSNorm under autocast."""

import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """RMSNorm whose weight follows the dtype of what it norms, so that torch's fused kernel takes it under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` over its root mean square along the last axis, times the weight."""
        assert self.weight is not None
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
