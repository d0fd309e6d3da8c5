"""Check how a bridge is to be spread over several devices, before anything is loaded."""

from __future__ import annotations

import importlib.util

from unpact_lens.errors import InputError

DeviceMap = str | dict[str, int | str]
"""A strategy of accelerate, or a device for each module."""

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""Strategies of accelerate."""


def check_device_map(device_map: DeviceMap, wrap: str, device: object, *, named: bool, merges: bool) -> str:
    """Refuse a map of devices that cannot work, and return the kind of model that it asks for.

    Args:
        device_map: A strategy of accelerate, or a device for each module.
        wrap: Kind of model that the caller asks for.
        device: Device that the caller asks for, or None.
        named: Whether transformers loads the model from a directory or a hub id.
        merges: Whether an adapter is to be merged into the model.

    Raises:
        InputError: If the model is not a bridge that transformers loads, a device or an adapter is given too, weights
            would be offloaded, or accelerate is not installed.
    """
    if wrap not in ("bridge", "auto"):
        raise InputError(f'device_map={device_map!r} is for bridges; add wrap="bridge"')
    if device is not None:
        raise InputError(f"device={device!r} and device_map={device_map!r}; give one of them")
    if not named:
        raise InputError(
            "device_map= is for a directory or a hub id, which transformers loads; a live Hugging Face model is spread "
            "by its own from_pretrained(..., device_map=...)"
        )
    if merges:
        raise InputError("adapter= merges into a copy; load the base with device_map=, then load_model(base, adapter=)")
    if isinstance(device_map, str) and device_map not in STRATEGIES:
        raise InputError(
            f"device_map={device_map!r}; give one of {', '.join(map(repr, STRATEGIES))}, or a device for each module"
        )
    places = () if isinstance(device_map, str) else map(str, device_map.values())
    if away := [place for place in places if place in ("disk", "meta")]:
        raise InputError(f"device_map holds {away[0]!r}: weights must stay in memory; give GPUs, or the CPU for all")
    if importlib.util.find_spec("accelerate") is None:
        raise InputError("device_map= needs the package accelerate: pip install accelerate")
    return "bridge"
