"""Explore two models in a notebook or a local page: prompt tokens, heads, patches, emphasis and prefill."""

from unpact_lens.boundary import guard_all
from unpact_lens.explorer.explore import explore
from unpact_lens.explorer.server import ExplorerServer
from unpact_lens.explorer.session import ExplorerSession

__all__ = ["ExplorerServer", "ExplorerSession", "explore"]

guard_all(globals(), __all__)
