"""Load, convert, run, export and save models; `hooked` defines what the analysis needs from a model."""

import warnings

with warnings.catch_warnings():  # transformers imports it next, which warns in a notebook without ipywidgets
    warnings.filterwarnings("ignore", message="IProgress not found")
    import tqdm.auto  # noqa: F401
