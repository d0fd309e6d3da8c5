"""Keep torch's global random state while modules are built, whose weights are drawn before they are filled."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

CPU = torch.device("cpu")


def random_state_kept(device: torch.device = CPU) -> AbstractContextManager[None]:
    """Return a context that restores the random state of the CPU and of one device; other GPUs are not started.

    Args:
        device: Device on which modules are built.
    """
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
