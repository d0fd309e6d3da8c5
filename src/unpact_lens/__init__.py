"""unpact-lens: why LLM unlearning works, fails or destroys, token by token and head by head.

```python
import unpact_lens as ul

model = ul.load_model("builtin")
bench = ul.load_benchmark("builtin")
u = ul.unlearn(model, bench.forget, bench.retain, method="npo_gdr")
ul.diff(model, u.model, bench.forget[0].prompt, bench.forget[0].answer).plot()
```

Names are imported when first used, so `import unpact_lens` takes no time and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "load_model": "models.load",
    "Endpoint": "models.endpoint",
    "load_benchmark": "data.load",
    "from_pairs": "data.pairs",
    "QA": "data.qa",
    "Corpus": "data.qa",
    "Benchmark": "data.qa",
    "log_prob": "scoring",
    "attribute": "attribution",
    "attribute_many": "attribution",
    "attribution_methods": "attribution",
    "compare_methods": "attribution",
    "interactions": "attribution",
    "sensitivity": "attribution",
    "faithfulness": "attribution",
    "TopK": "attribution",
    "Share": "attribution",
    "Threshold": "attribution",
    "decompose": "decomposition",
    "ablate": "decomposition",
    "path_effects": "decomposition",
    "lens_curves": "decomposition",
    "train_tuned_lens": "decomposition",
    "diff": "comparison",
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
    "focus": "comparison.focus",
    "unlearn": "unlearning",
    "unlearn_sequence": "unlearning",
    "methods": "unlearning",
    "tune": "unlearning",
    "recover": "recovery",
    "evaluate": "evaluation",
    "Judge": "evaluation",
    "metrics": "evaluation",
    "known_facts": "evaluation",
    "agreement": "evaluation",
    "published": "evaluation",
    "run_study": "study",
    "load_config": "study",
    "write_report": "report",
    "save": "results",
    "load": "results",
    "export_hf": "models.export",
    "InputError": "errors",
}
"""Where each public name lives, below `unpact_lens`."""

__all__ = list(_HOME)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unpact_lens.attribution import (
        Share,
        Threshold,
        TopK,
        attribute,
        attribute_many,
        attribution_methods,
        compare_methods,
        faithfulness,
        interactions,
        sensitivity,
    )
    from unpact_lens.comparison import (
        activation_changes,
        attention_patterns,
        diff,
        diff_many,
        graft,
        graft_many,
        graft_map,
        key_path,
        key_path_many,
        lens_changes,
        patch,
        patch_many,
        split_heads,
        unlearning_depth,
        weight_changes,
    )
    from unpact_lens.comparison.focus import focus
    from unpact_lens.data.load import load_benchmark
    from unpact_lens.data.pairs import from_pairs
    from unpact_lens.data.qa import QA, Benchmark, Corpus
    from unpact_lens.decomposition import ablate, decompose, lens_curves, path_effects, train_tuned_lens
    from unpact_lens.errors import InputError
    from unpact_lens.evaluation import Judge, agreement, evaluate, known_facts, metrics, published
    from unpact_lens.models.endpoint import Endpoint
    from unpact_lens.models.export import export_hf
    from unpact_lens.models.load import load_model
    from unpact_lens.recovery import recover
    from unpact_lens.report import write_report
    from unpact_lens.results import load, save
    from unpact_lens.scoring import log_prob
    from unpact_lens.study import load_config, run_study
    from unpact_lens.unlearning import methods, tune, unlearn, unlearn_sequence


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        from unpact_lens.errors import nearest

        raise AttributeError(f"unpact_lens has no {name!r}; {nearest(name, _HOME)}")
    value = getattr(importlib.import_module(f"unpact_lens.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
