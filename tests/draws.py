"""What a seed draws depends on the version of torch: 2.6 draws other numbers than 2.13."""

import torch

_DRAWN = torch.multinomial(torch.arange(1.0, 9.0), 3, generator=torch.Generator().manual_seed(0))

SAME_DRAWS = _DRAWN.tolist() == [6, 7, 2]
"""Whether this torch draws as the locked one, with which outputs were recorded and levels were chosen."""
