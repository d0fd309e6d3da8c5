"""Load the real TOFU for the tests that need it, from the directory that the environment variable `TOFU` names."""

from __future__ import annotations

import os
from typing import Any

import pytest

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.data.tofu import tofu

needs_tofu = pytest.mark.skipif("TOFU" not in os.environ, reason="needs the real TOFU: make test TOFU=DIRECTORY")


def real_tofu(split: str, **options: Any) -> Benchmark:
    """Load a split of the real TOFU, see `tofu`."""
    return tofu(split, path=os.environ["TOFU"], **options)
