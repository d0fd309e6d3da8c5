"""Test a loaded model: which analyses it supports, by what it computes and not by its name.

Each check compares the hooked model with an outside truth: with its source model in transformers, or with one text at a
time without cache and padding.

| check | what it compares |
|---|---|
| `logits` | logits with those of the source model |
| `padding` | texts in a batch, padded on the right, with single texts |
| `cache` | cached, batched, left-padded decoding with single texts without cache |
| `scores`, `pattern`, `values`, `heads`, `mlp`, `residual` | the output with and without a change at these hooks |
| `clone` | the memory that a copy reads with that of its original |
| `weights` | the names that are hashed and saved with the source model's `state_dict` |
| `lens` | the final residual stream, unembedded, with the logits |
| `ends` | the tokens that end an answer with those at which transformers' `generate` ends |

`require` is the gate: a call that needs a check which fails is refused, and everything else works.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.json_files import read_record, write_record
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import architecture, inert_hooks
from unpact_lens.models.answer_end import end_ids
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.decoding import DECODES, decodes_with_cache, full_precision, tolerance
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.fingerprint import model_config
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.independence import probe_tokens
from unpact_lens.models.memory import out_of_memory
from unpact_lens.models.pip_models import cache_dir
from unpact_lens.models.weights import named_weights, source_state, uncovered_weight
from unpact_lens.results import Result, storable, versions

if TYPE_CHECKING:
    import pandas as pd

KEPT = "_unpact_self_test"
"""Attribute in which a model keeps the outcomes of its checks, by name."""

PROBE_TOKENS = 24
"""Length of the texts on which logits are compared."""

SAMPLE = 64
"""Number of numbers of each weight that identify a model in the cache of self-tests."""

LARGEST_COPY = 400_000_000
"""Number of parameters above which the check `clone` waits for the first copy."""

FORMAT = 1
"""Version of the file of kept outcomes."""

PASSED, FAILED, ABSENT = "passed", "failed", "absent"
"""Outcomes of a check: `absent` if the model has no such part."""


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome of one check.

    Attributes:
        status: One of `PASSED`, `FAILED` and `ABSENT`.
        detail: What was measured, or what is missing.
    """

    status: str
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """Describe one check.

    Attributes:
        what: What passes, as a statement.
        needed_by: Calls that are refused if it fails.
        remedy: What to do then.
        run: Function that runs it.
    """

    what: str
    needed_by: str
    remedy: str
    run: Callable[[HookedModel, Source | None], Outcome]


@dataclass(frozen=True)
class Source:
    """Hold what the self-test compares of a source model, taken before it is wrapped.

    Attributes:
        tokens: Input ids.
        logits: Its logits, in fp32 or fp64, on the CPU.
        weights: A sample of each entry of its `state_dict`.
        ends: Tokens at which its `generate` ends.
    """

    tokens: Tensor
    logits: Tensor
    weights: Mapping[str, Tensor]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, hf: PreTrainedModel) -> Source:
        """Run a Hugging Face model on the probe and take samples of its weights; it is put in eval mode for that."""
        vocabulary = hf.get_input_embeddings().weight.shape[0]
        generator = torch.Generator().manual_seed(0)
        longest = getattr(hf.config.get_text_config(), "max_position_embeddings", None) or PROBE_TOKENS
        tokens = torch.randint(vocabulary, (2, min(PROBE_TOKENS, longest)), generator=generator)
        training = hf.training
        with torch.inference_mode(), full_precision():
            logits = hf.eval()(tokens.to(hf.device)).logits
        hf.train(training)
        listed = getattr(getattr(hf, "generation_config", None), "eos_token_id", None)
        ends = () if listed is None else (listed,) if isinstance(listed, int) else tuple(int(t) for t in listed)
        return cls(tokens, logits.cpu(), {n: _sample(t) for n, t in hf.state_dict().items()}, ends)


@storable
@dataclass(frozen=True, eq=False)
class SelfTest(Result):
    """Hold the outcomes of the self-test of one model.

    Attributes:
        architecture: Name of the model's class.
        wrap: `"hooked"` or `"bridge"`.
        checks: Names of the checks.
        statuses: Outcome of each check: `"passed"`, `"failed"`, or `"absent"` if the model has no such part.
        details: What was measured or is missing, for each check.
        model: Hash of the configuration and of a sample of each weight.
    """

    architecture: str
    wrap: str
    checks: tuple[str, ...]
    statuses: tuple[str, ...]
    details: tuple[str, ...]
    model: str

    def _brief(self) -> str:
        return joined(
            [self.architecture, self.wrap, f"{self.statuses.count('passed')} of {len(self.checks)} checks passed"]
        )

    def outcome(self, check: str) -> Outcome:
        """Return the outcome of one check."""
        at = self.checks.index(check)
        return Outcome(self.statuses[at], self.details[at])

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each check: what it says, its status, what was measured, who needs it."""
        import pandas as pd

        rows = zip(self.checks, self.statuses, self.details, strict=True)
        columns = ("check", "status", "detail", "says", "needed_by")
        return pd.DataFrame([(c, s, d, CHECKS[c].what, CHECKS[c].needed_by) for c, s, d in rows], columns=columns)


def self_test(model: HookedModel, source: PreTrainedModel | Source | None = None, *, keep: bool = True) -> SelfTest:
    """Run all checks on a model.

    Args:
        model: Hooked model that is not an ensemble. It is not changed.
        source: Hugging Face model that it was made from, or what was taken from it. If None, the checks that need it
            (`logits`) are absent.
        keep: Read the outcomes from the cache directory if this model was tested before, and keep them there.

    Returns:
        One row for each check. The outcomes are also kept with the model object, for `require`.

    Raises:
        InputError: If the model is an ensemble.

    >>> from unpact_lens.models.load import load_model
    >>> self_test(load_model("builtin")).outcome("cache").status
    'passed'
    """
    if hooked.members_of(model):
        raise InputError("an ensemble has no self-test of its own; test its members")
    if isinstance(source, PreTrainedModel):
        source = Source.of(source)
    key = _key(model, source is not None)
    file = cache_dir() / "self-tests" / f"{key}.json"
    kept = vars(model).setdefault(KEPT, {})
    if keep and (found := _written_outcomes(file)):
        kept.update(found)
        if kept["cache"].status != ABSENT:
            vars(model)[DECODES] = kept["cache"].status == PASSED
    else:
        with full_precision():
            kept.update({name: _outcome(check, model, source) for name, check in CHECKS.items()})
        if keep:
            with contextlib.suppress(OSError, InputError):  # if it cannot be written, the next load runs them again
                file.parent.mkdir(parents=True, exist_ok=True)
                outcomes = {name: [kept[name].status, kept[name].detail] for name in CHECKS}
                write_record(file, {"format": FORMAT, "outcomes": outcomes})
    return SelfTest(
        architecture=architecture(model),
        wrap="bridge" if hooked.is_bridge(model) else "hooked",
        checks=tuple(CHECKS),
        statuses=tuple(kept[name].status for name in CHECKS),
        details=tuple(kept[name].detail for name in CHECKS),
        model=key,
    )


def _written_outcomes(file: Path) -> dict[str, Outcome] | None:
    """Read the outcomes that an earlier load wrote; None if there are none, or the file is damaged."""
    try:
        record = read_record(file, sealed_since=FORMAT) if file.is_file() else {}
        return {name: Outcome(*record["outcomes"][name]) for name in CHECKS}
    except (InputError, OSError, LookupError, TypeError):
        return None


def require(model: HookedModel, check: str, *, feature: str, remedy: str | None = None) -> None:
    """Refuse a call on a model that fails the check which the call needs.

    A check that has not run yet runs now, and its outcome is kept with the model and its copies.

    Args:
        model: Hooked model, or an ensemble, whose members are checked.
        check: Name of the check, one of `CHECKS`.
        feature: What needs it, as the user calls it, e.g. `"lens_curves"`.
        remedy: What to do instead. If None, the remedy of the check.

    Raises:
        InputError: If the check fails or the model lacks the part. The message names feature, architecture and remedy.
    """
    if check not in CHECKS:
        raise InputError(f"unknown check {check!r}; {nearest(check, CHECKS)}")
    for member in hooked.members_of(model) or (model,):
        kept = vars(member).setdefault(KEPT, {})
        if check not in kept:
            with exclusive(member):
                kept[check] = _outcome(CHECKS[check], member, None)
        outcome = kept[check]
        if outcome.status == FAILED:
            raise InputError(
                f"{feature} would be wrong on this {architecture(member)}: {outcome.detail}; "
                f"{remedy or CHECKS[check].remedy}"
            )


def _outcome(check: Check, model: HookedModel, source: Source | None) -> Outcome:
    """Run a check. An error in the model's own code fails it: TransformerLens or transformers do not fit each other."""
    try:
        return check.run(model, source)
    except Exception as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        said = (str(error).strip() or "no message").splitlines()[0]
        return Outcome(FAILED, f"it fails with {type(error).__name__}: {said}")


def _key(model: HookedModel, with_source: bool) -> str:
    """Return the SHA-256 of configuration, library versions and a sample of each weight; reads little memory."""
    digest = hashlib.sha256(json.dumps([model_config(model), versions(), _code(), with_source], default=str).encode())
    for name, tensor in named_weights(model).items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(_sample(tensor).double().numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def _code() -> str:
    """Return the SHA-256 of the files of this package; outcomes are not kept beyond the code that found them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _sample(tensor: Tensor) -> Tensor:
    """Return at most `SAMPLE` numbers of a tensor, spread evenly, on the CPU."""
    flat = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach().flatten()
    return flat[:: max(1, flat.numel() // SAMPLE)][:SAMPLE].cpu().clone()


def _logits(model: HookedModel, source: Source | None) -> Outcome:
    if source is None:
        return Outcome(ABSENT, "no source model to compare with")
    with torch.inference_mode():
        ours = model(source.tokens.to(hooked.device_of(model)), return_type="logits").cpu().to(source.logits.dtype)
    return _compared(ours, source.logits, "its logits differ from those of transformers")


def _compared(ours: Tensor, theirs: Tensor, what: str) -> Outcome:
    """Compare two tensors of logits."""
    difference, allowed = float((ours - theirs).abs().max()), tolerance(theirs)
    if difference <= allowed:
        return Outcome(PASSED, f"largest difference {difference:.1e}")
    return Outcome(FAILED, f"{what} by {difference:.2g}, of at most {float(theirs.abs().max()):.2g}")


def _padding(model: HookedModel, source: Source | None) -> Outcome:
    lengths = [min(n, model.cfg.n_ctx) for n in (11, 4)]
    tokens = probe_tokens(model, 2, max(lengths))
    last = torch.tensor([[n - 1] for n in lengths])
    with torch.inference_mode():
        together = hooked.logits_at(model, tokens, last)[:, 0]
        alone = [
            hooked.logits_at(model, tokens[row : row + 1, :n], torch.tensor([[n - 1]]))[0, 0]
            for row, n in enumerate(lengths)
        ]
    return _compared(together, torch.stack(alone), "logits of a batch differ from those of single texts")


def _cache(model: HookedModel, source: Source | None) -> Outcome:
    if decodes_with_cache(model):
        return Outcome(PASSED)
    return Outcome(FAILED, "decoding with a KV cache does not give the logits of the whole text")


HOOKS = {
    "scores": ("attn.hook_attn_scores",), "pattern": ("attn.hook_pattern",), "values": ("attn.hook_v",),
    "heads": ("attn.hook_z",), "mlp": ("hook_mlp_out",), "residual": ("hook_resid_pre", "hook_resid_post"),
}  # fmt: skip
"""Hooks of a block whose effect each check looks at."""


def _hooks(check: str) -> Callable[[HookedModel, Source | None], Outcome]:
    """Return the check that changing the activation at its hooks changes the output, in each layer."""

    def run(model: HookedModel, source: Source | None) -> Outcome:
        known = hooked.hook_points(model)
        layers = [f"blocks.{layer}" for layer in range(model.cfg.n_layers)]
        names = [f"{layer}.{part}" for layer in layers for part in HOOKS[check]]
        lacking = [name for name in names if name not in known]
        if lacking:
            return Outcome(ABSENT, f"there is no {lacking[0]}")
        every = [f"{layer}.{part}" for layer in layers for parts in HOOKS.values() for part in parts]
        try:
            inert_hooks(model, [name for name in every if name in known])  # many at once are faster than check by check
            inert = inert_hooks(model, names)
        except Exception as error:
            # A bridge may reject any changed activation, with an error of its own.
            return Outcome(FAILED, f"changing {names[0]!r} raises {type(error).__name__}")
        if inert:
            return Outcome(FAILED, f"changing {inert[0]!r} changes no output")
        return Outcome(PASSED, f"{len(names)} hooks")

    return run


def _clone(model: HookedModel, source: Source | None) -> Outcome:
    size = sum(p.numel() for p in model.parameters())
    if size > LARGEST_COPY:
        return Outcome(ABSENT, f"checked at the first copy ({size / 1e9:.1f} billion parameters)")
    try:
        clone(model)
    except InputError as error:
        return Outcome(FAILED, str(error))
    return Outcome(PASSED)


def _weights(model: HookedModel, source: Source | None) -> Outcome:
    if (lacking := uncovered_weight(model)) is not None:
        return Outcome(FAILED, lacking)
    if source is None or not hooked.is_bridge(model):
        return Outcome(PASSED, f"{len(named_weights(model))} weights")
    state = source_state(model)
    for name, sample in source.weights.items():
        if not torch.equal(_sample(state[name]).double(), sample.double()):
            return Outcome(FAILED, f"weight {name} would not be saved as it was loaded")
    return Outcome(PASSED, f"{len(source.weights)} tensors of the source model")


def _lens(model: HookedModel, source: Source | None) -> Outcome:
    if hooked.final_hook(model) not in hooked.hook_points(model):
        return Outcome(ABSENT, f"there is no {hooked.final_hook(model)}")
    tokens = probe_tokens(model, 1, min(8, model.cfg.n_ctx))
    try:
        with torch.inference_mode():
            logits = model(tokens, return_type="logits")
            read = hooked.unembed(model, hooked.final_residual(model, tokens))
    except Exception as error:
        # An architecture may have no `ln_final` or shape it differently; whatever it raises, the lens cannot read it.
        return Outcome(FAILED, f"the final residual stream cannot be unembedded ({type(error).__name__})")
    return _compared(read, logits, "the unembedded final residual stream differs from the logits")


def _ends(model: HookedModel, source: Source | None) -> Outcome:
    wanted = source.ends if source is not None else ()
    if lacking := [t for t in wanted if t not in end_ids(model)]:
        return Outcome(FAILED, f"transformers' generate ends at token {lacking[0]}, and generation here does not")
    return Outcome(PASSED if end_ids(model) else ABSENT, f"tokens {', '.join(map(str, end_ids(model))) or 'none'}")


_OTHER_WRAP = 'load it with wrap="hooked" where its architecture has one'

CHECKS: dict[str, Check] = {
    "logits": Check(
        "the logits equal those of transformers",
        "everything",
        "load it with the other wrap= where there is one, or ask it as an Endpoint",
        _logits,
    ),
    "padding": Check(
        "a batch gives the logits of single texts", "everything", "load it with the other wrap=", _padding
    ),
    "cache": Check(
        "decoding with a KV cache equals decoding without",
        "generation is slower; prompt interventions",
        _OTHER_WRAP,
        _cache,
    ),
    "scores": Check(
        "changed attention scores change the output",
        "knockout, probe 'attention'",
        _OTHER_WRAP,
        _hooks("scores"),
    ),
    "pattern": Check(
        "changed attention patterns change the output",
        "path_effects, interventions",
        _OTHER_WRAP,
        _hooks("pattern"),
    ),
    "values": Check("changed values change the output", "value_zeroing, key_path", _OTHER_WRAP, _hooks("values")),
    "heads": Check("changed heads change the output", "ablate, split_heads", _OTHER_WRAP, _hooks("heads")),
    "mlp": Check("changed MLP outputs change the output", "ablate, patch", _OTHER_WRAP, _hooks("mlp")),
    "residual": Check(
        "a changed residual stream changes the output",
        "patch, unlearning_depth",
        _OTHER_WRAP,
        _hooks("residual"),
    ),
    "clone": Check(
        "a copy is independent", "unlearn, graft, relearning", "load the model again in place of the copy", _clone
    ),
    "weights": Check(
        "saving covers every weight",
        "save, hash, export_hf, weight_changes",
        "save the source model with transformers",
        _weights,
    ),
    "lens": Check(
        "the final residual stream gives the logits",
        "lens_curves, probe 'logit_lens', KL references",
        _OTHER_WRAP,
        _lens,
    ),
    "ends": Check("answers end where generate ends", "generation", "set generation_config.eos_token_id", _ends),
}
"""All checks, by name."""
