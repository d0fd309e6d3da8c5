"""Load, convert, run, export and save models; `hooked` defines what the analysis needs from a model."""
