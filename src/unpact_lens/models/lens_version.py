"""Import what only some versions of TransformerLens have, and bring it together with newer versions of transformers.

No other file asks for the version. TransformerLens 4.0 removed `HookedTransformer`, its configuration, components and
weight conversions. There, every model is a `TransformerBridge`, and the names below are stand-ins that refuse to be
used.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

from unpact_lens.errors import InputError

LENS_VERSION = importlib.metadata.version("transformer-lens")
"""Version of TransformerLens that is installed."""

HAS_HOOKED = int(LENS_VERSION.split(".")[0]) < 4
"""Whether this version has `HookedTransformer`."""

ACCEPTS_CACHE = "_unpact_accepts_cache"
"""Attribute of a bridge that `accept_cache` prepared."""

DEFAULT_WRAP = "hooked" if HAS_HOOKED else "bridge"
"""Default of `wrap=` in `load_model`."""


def require_hooked(what: str) -> None:
    """Refuse what needs a `HookedTransformer` where TransformerLens has none.

    Args:
        what: What the caller asked for, e.g. `'wrap="hooked"'`.

    Raises:
        InputError: If TransformerLens is of version 4 or later. The message names the last version that has it.
    """
    if not HAS_HOOKED:
        raise InputError(
            f"{what} needs HookedTransformer, which TransformerLens 4.0 removed (installed: {LENS_VERSION}); use "
            'wrap="bridge", or install "transformer-lens>=3.9,<4", which has it'
        )


def check_hook_is_on(bridge: Any, name: str, point: Any, function: Callable[..., object]) -> None:
    """Refuse a hook at a point that the bridge's configuration turns off, where it would never be called.

    Args:
        bridge: A `TransformerBridge`.
        name: Name of the hook point.
        point: The hook point.
        function: The hook.

    Raises:
        ValueError: If it is turned off. The message names the setting.
    """
    if HAS_HOOKED:
        bridge.check_hooks_to_add(point.name or name)
    else:
        bridge.check_hooks_to_add(point, name, function)


def accept_cache(bridge: Any) -> None:
    """Let the attention of a bridge find the KV cache by the name that transformers gives it.

    Since transformers 5.24 a block hands the cache to its attention as `cache`. TransformerLens 3.9 and 4.3 look for
    `past_key_values`, and without it nothing would be cached: each generated token would see itself alone.

    Args:
        bridge: A `TransformerBridge`. Attention that runs the code of transformers is left as it is. A bridge that
            was prepared before stays as it is.
    """
    if vars(bridge).get(ACCEPTS_CACHE):
        return
    vars(bridge)[ACCEPTS_CACHE] = True
    # Bridges pass the cache by its former name, which no user of this library can change.
    warnings.filterwarnings("ignore", r"`past_key_values` is deprecated", FutureWarning)
    for module in bridge.modules():
        if isinstance(module, AttentionBridge) and type(module).forward is not AttentionBridge.forward:
            module.register_forward_pre_hook(renamed_cache, with_kwargs=True)


def renamed_cache(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Rename the argument `cache` to `past_key_values`, as a pre-hook of an attention module."""
    if "cache" in kwargs:
        kwargs = {**kwargs, "past_key_values": kwargs["cache"]}
        del kwargs["cache"]
    return args, kwargs


if TYPE_CHECKING or HAS_HOOKED:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.components.abstract_attention import AbstractAttention
    from transformer_lens.components.mlps.can_be_used_as_mlp import CanBeUsedAsMLP
    from transformer_lens.loading_from_pretrained import convert_hf_model_config
    from transformer_lens.pretrained import weight_conversions
else:

    class HookedTransformer:
        """Stand in for the class that this version lacks; nothing is an instance of it."""

        def __init__(self, *_: object, **__: object) -> None:
            require_hooked("a HookedTransformer")

    class HookedTransformerConfig(HookedTransformer):
        """Stand in for the class that this version lacks."""

    class AbstractAttention(HookedTransformer):
        """Stand in for the class that this version lacks."""

    class CanBeUsedAsMLP(HookedTransformer):
        """Stand in for the class that this version lacks."""

    def convert_hf_model_config(name: str, **_: object) -> dict[str, Any]:
        """Stand in for the function that this version lacks."""
        require_hooked("the configuration of a HookedTransformer")
        return {}

    weight_conversions = None
