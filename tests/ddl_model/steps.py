"""One residual rule alone, without the sublayer that reads its state afterwards."""

from torch import Tensor, nn

from ddl_model.compress import ChannelCompress, Reading
from ddl_model.compress_op import Compressed
from ddl_model.observe import Observer


def rewritten(
    residual: nn.Module,
    state: Tensor,
    output: Tensor,
    context: Tensor,
    compressed: Tensor,
    observer: Observer | None = None,
) -> Tensor:
    """Return the next state of a residual rule alone, whatever reads it afterwards."""
    width, channels = state.shape[-2:]
    compress, norm = ChannelCompress(width, channels).to(state.dtype), nn.RMSNorm(width, eps=1e-5).to(state.dtype)
    following = Reading(compress, norm, None, "next")
    next_state: Tensor = residual(state, output, Compressed(compressed, context), following, observer)[0]
    return next_state
