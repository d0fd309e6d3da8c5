"""Show why LLM unlearning works, fails or destroys, token by token and head by head.

```python
import unpact_lens as ul

model = ul.load_model("builtin")
bench = ul.load_benchmark("builtin")
u = ul.unlearn(model, bench.forget, bench.retain, method="npo_gdr")
ul.diff(model, u.model, bench.forget[0].prompt, bench.forget[0].answer).plot()
```

Names are imported on first use, so `import unpact_lens` is fast and does not import torch. Everything else is reached
through its subpackage, e.g. `ul.comparison.patch` or `ul.decomposition.ablate`.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "load_model": "models.load",
    "Endpoint": "models.endpoint",
    "export_hf": "models.export",
    "load_benchmark": "data.load",
    "from_pairs": "data.custom",
    "QA": "data.benchmark",
    "Corpus": "data.benchmark",
    "Benchmark": "data.benchmark",
    "log_prob": "scoring",
    "attribute": "attribution",
    "attribute_many": "attribution",
    "attribution_methods": "attribution",
    "TopK": "attribution",
    "Share": "attribution",
    "Threshold": "attribution",
    "decompose": "decomposition",
    "diff": "comparison",
    "average": "comparison",
    "explore": "explorer",
    "unlearn": "unlearning",
    "methods": "unlearning.registry",
    "recover": "recovery",
    "probes": "recovery",
    "evaluate": "evaluation",
    "metrics": "evaluation",
    "meta_evaluate": "evaluation.meta_evaluate",
    "audit": "auditing",
    "run_study": "study",
    "load_config": "study",
    "write_report": "report",
    "save": "results",
    "load": "results",
    "InputError": "errors",
}
"""Subpackage or module of each public name, below `unpact_lens`."""

_MOVED = {
    "compare_methods": "attribution",
    "interactions": "attribution",
    "sensitivity": "attribution",
    "faithfulness": "attribution",
    "ablate": "decomposition",
    "path_effects": "decomposition",
    "lens_curves": "decomposition",
    "train_tuned_lens": "decomposition",
    "diff_many": "comparison",
    "split_heads": "comparison",
    "weight_changes": "comparison",
    "activation_changes": "comparison",
    "attention_patterns": "comparison",
    "lens_changes": "comparison",
    "patch": "comparison",
    "patch_many": "comparison",
    "graft": "comparison",
    "graft_many": "comparison",
    "graft_map": "comparison",
    "key_path": "comparison",
    "key_path_many": "comparison",
    "unlearning_depth": "comparison",
    "focus": "comparison",
    "unlearn_sequence": "unlearning",
    "tune": "unlearning",
    "Judge": "evaluation",
    "known_facts": "evaluation",
    "agreement": "evaluation",
    "published": "evaluation",
}
"""Former top-level names and the subpackage that holds each of them now; they still work here, with a warning."""

_SUBPACKAGES = (
    "attribution",
    "auditing",
    "comparison",
    "data",
    "decomposition",
    "evaluation",
    "explorer",
    "models",
    "plots",
    "recovery",
    "report",
    "stats",
    "study",
    "unlearning",
)

__all__ = list(_PUBLIC)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unpact_lens import (
        attribution,
        auditing,
        comparison,
        data,
        decomposition,
        evaluation,
        explorer,
        models,
        plots,
        recovery,
        report,
        stats,
        study,
        unlearning,
    )
    from unpact_lens.attribution import Share, Threshold, TopK, attribute, attribute_many, attribution_methods
    from unpact_lens.auditing.audit import audit
    from unpact_lens.comparison import average, diff
    from unpact_lens.data.benchmark import QA, Benchmark, Corpus
    from unpact_lens.data.custom import from_pairs
    from unpact_lens.data.load import load_benchmark
    from unpact_lens.decomposition import decompose
    from unpact_lens.errors import InputError
    from unpact_lens.evaluation import evaluate, metrics
    from unpact_lens.evaluation.meta_evaluate import meta_evaluate
    from unpact_lens.explorer import explore
    from unpact_lens.models.endpoint import Endpoint
    from unpact_lens.models.export import export_hf
    from unpact_lens.models.load import load_model
    from unpact_lens.recovery import probes, recover
    from unpact_lens.report import write_report
    from unpact_lens.results import load, save
    from unpact_lens.scoring import log_prob
    from unpact_lens.study.config import load_config
    from unpact_lens.study.run_study import run_study
    from unpact_lens.unlearning import unlearn
    from unpact_lens.unlearning.registry import methods


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"unpact_lens.{name}")
    if name in _MOVED:
        home = _MOVED[name]
        warnings.warn(f"unpact_lens.{name} is now unpact_lens.{home}.{name}", FutureWarning, stacklevel=2)
        return getattr(importlib.import_module(f"unpact_lens.{home}"), name)
    if name not in _PUBLIC:
        from unpact_lens.errors import nearest

        raise AttributeError(f"unpact_lens has no {name!r}; {nearest(name, _PUBLIC)}")
    value = getattr(importlib.import_module(f"unpact_lens.{_PUBLIC[name]}"), name)
    if inspect.isfunction(value):
        value = importlib.import_module("unpact_lens.boundary").guard(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES, "__version__"])
