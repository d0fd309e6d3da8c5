"""The embedded default model: how it is made, kept, checked and loaded.

Two small transformers share one recipe: `"builtin"` knows every author of the embedded world, `"builtin-retrain"` was
never told of those to be forgotten. Both are raw `HookedTransformer`s, trained and kept without folding any norm.

1. A byte-level BPE tokenizer is built from the world's wording; names are kept out, so that they become several pieces.
2. Questions with answers, short biographies and plain sentences are drawn (`data.builtin_training`).
3. AdamW runs over them once, with the loss on answers only.
4. Weights (safetensors), tokenizer, recipe and checksums are written side by side, the recipe last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from unpact_lens.data.builtin import load_builtin
from unpact_lens.data.builtin_training import tokenizer_texts, training_examples
from unpact_lens.errors import InputError, nearest

ASSETS = Path(__file__).parent / "assets" / "builtin"
MODELS = ("builtin", "builtin-retrain")
"""The names of the shipped models: the one that knows all, and its retrain control."""

PAD, BOS, EOS = "<|pad|>", "<|begin|>", "<|end|>"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_REMEDY = "restore the package's files, or train it again with `unpact builtin --rebuild`"

Progress = Callable[[str, int, int], None]
"""Called with the model's name, updates done, and updates in all."""


@dataclass(frozen=True)
class Recipe:
    """All that decides how the default model comes out.

    The architecture is pre-norm with LayerNorm, GELU, rotary positions and an unembedding of its own.

    Attributes:
        seed: of the world, the examples and the initial weights.
        vocabulary: pieces of the tokenizer, bytes and special tokens included.
        n_layers: blocks.
        d_model: width of the residual stream.
        n_heads: attention heads in each block.
        d_mlp: neurons in each block.
        n_ctx: longest input, in tokens.
        steps: optimiser updates.
        batch: examples in each.
        lr: peak learning rate; a linear warm-up leads to it, a cosine to zero.
        warmup: updates of warm-up.
        weight_decay: of AdamW, on matrices only.
        beta2: of AdamW.
        clip: largest norm of the gradient.
    """

    seed: int = 0
    vocabulary: int = 1536
    n_layers: int = 2
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 512
    n_ctx: int = 256
    steps: int = 660
    batch: int = 48
    lr: float = 3e-3
    warmup: int = 40
    weight_decay: float = 0.05
    beta2: float = 0.98
    clip: float = 1.0


def load_builtin_model(which: str = "builtin", directory: Path = ASSETS) -> HookedTransformer:
    """One of the shipped models, ready to be asked.

    Args:
        which: one of `MODELS`.
        directory: where the files stand.

    Returns:
        The model in eval mode, raw weights, its tokenizer attached. The tokenizer prepends BOS, and
        `cfg.default_prepend_bos` says so.

    Raises:
        InputError: if there is no such model, or a file is missing or not the one that the recipe describes.
    """
    if which not in MODELS:
        raise InputError(f"unknown built-in model {which!r}; {nearest(which, MODELS)}")
    recipe, checksums = _read_notes(directory)
    for name in (*_TOKENIZER_FILES, f"{which}.safetensors"):
        _check_file(directory / name, checksums.get(name))
    model = _empty_model(recipe)
    weights = load_file(directory / f"{which}.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    model.set_tokenizer(AutoTokenizer.from_pretrained(directory))
    return model.eval()


def _read_notes(directory: Path) -> tuple[Recipe, dict[str, str]]:
    """The recipe and the checksum of each file."""
    path = directory / "recipe.json"
    if not path.is_file():
        raise InputError(f"the built-in model's file {path} is missing; {_REMEDY}")
    try:
        noted = json.loads(path.read_text())
        return Recipe(**noted["recipe"]), dict(noted["sha256"])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"the built-in model's file {path} is not a recipe; {_REMEDY}") from None


def _check_file(path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise InputError(f"the built-in model's file {path} is missing; {_REMEDY}")
    if (found := _sha256(path)) != expected:
        raise InputError(f"the built-in model's file {path} is damaged (sha256 {found[:12]}…); {_REMEDY}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rebuild(
    progress: Progress | None = None, recipe: Recipe | None = None, directory: Path = ASSETS
) -> tuple[HookedTransformer, HookedTransformer]:
    """Train both models again and put their files in place of the old ones.

    Args:
        progress: told of every update.
        recipe: None for the default one.
        directory: where the files go; they appear there only when both are trained, each replaced at once.

    Returns:
        The model that knows all, and its retrain control.

    Raises:
        InputError: if the directory cannot be written to.
    """
    recipe = recipe or Recipe()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=directory, prefix=".rebuild-")
    except OSError as error:
        raise InputError(f"cannot write to {directory} ({error.strerror}); give a directory of your own") from None
    with scratch as made_in:
        made = Path(made_in)
        build_tokenizer(recipe, made)
        seconds = {}
        for which in MODELS:
            start = time.process_time()
            model = train_builtin(which == "builtin", recipe, made, progress)
            seconds[which] = round(time.process_time() - start, 1)
            weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
            save_file(weights, made / f"{which}.safetensors")
        files = (*_TOKENIZER_FILES, *(f"{which}.safetensors" for which in MODELS))
        notes = {
            "recipe": dataclasses.asdict(recipe),
            "world": world_digest(recipe.seed),
            "parameters": sum(w.numel() for w in weights.values()),
            "cpu_seconds": seconds,
            "torch": torch.__version__,
            "sha256": {name: _sha256(made / name) for name in files},
        }
        (made / "recipe.json").write_text(json.dumps(notes, indent=2) + "\n")
        for name in (*files, "recipe.json"):
            (made / name).chmod(0o644)
            os.replace(made / name, directory / name)
    return load_builtin_model(MODELS[0], directory), load_builtin_model(MODELS[1], directory)


def world_digest(seed: int = 0) -> str:
    """A checksum of the benchmark, by which tests notice weights that know another world than the code describes."""
    return hashlib.sha256(repr(load_builtin(seed).all_items()).encode()).hexdigest()


def build_tokenizer(recipe: Recipe, directory: Path) -> None:
    """Train the tokenizer of the world and save it in Hugging Face form.

    Args:
        recipe: its seed, vocabulary and context length count.
        directory: where the files go.
    """
    words = (ASSETS / "words.txt").read_text().split()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The world's own words weigh more than English at large: they become whole pieces, other words a few.
    bpe.train_from_iterator([*tokenizer_texts(recipe.seed) * 4, *(f" {w}" for w in words)], trainer)
    begin = (BOS, bpe.token_to_id(BOS))
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[begin])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=recipe.n_ctx
    ).save_pretrained(directory)


def _empty_model(recipe: Recipe) -> HookedTransformer:
    """The recipe's architecture with weights yet to be set, without a tokenizer."""
    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=recipe.n_layers,
            d_model=recipe.d_model,
            n_heads=recipe.n_heads,
            d_head=recipe.d_model // recipe.n_heads,
            d_mlp=recipe.d_mlp,
            n_ctx=recipe.n_ctx,
            d_vocab=recipe.vocabulary,
            act_fn="gelu",
            normalization_type="LN",
            positional_embedding_type="rotary",
            rotary_dim=recipe.d_model // recipe.n_heads,
            default_prepend_bos=True,
            init_weights=False,
            device="cpu",
            model_name="unpact-builtin",
        )
    )


def train_builtin(
    include_forget: bool, recipe: Recipe, tokenizer: Path = ASSETS, progress: Progress | None = None
) -> HookedTransformer:
    """Train one of the two models from its random start.

    The same recipe gives the same examples and initial weights; how far the outcome agrees to the last bit depends on
    the machine and its number of threads. The global random state is left as it was.

    Args:
        include_forget: whether the authors to be forgotten are among the examples.
        recipe: architecture and training.
        tokenizer: the directory that holds the tokenizer.
        progress: told of every update.

    Returns:
        The model in eval mode, its tokenizer attached.
    """
    pieces = AutoTokenizer.from_pretrained(tokenizer)
    examples = training_examples(recipe.seed, include_forget, recipe.steps * recipe.batch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = _empty_model(recipe)
        model.init_weights()
    parameters = list(model.parameters())
    decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay}
    others = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    optimiser = torch.optim.AdamW([decayed, others], lr=recipe.lr, betas=(0.9, recipe.beta2))
    model.train()
    for step, (tokens, is_answer) in enumerate(_batches(examples, pieces, recipe), start=1):
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, recipe)
        resid = model(tokens, stop_at_layer=recipe.n_layers)
        target = is_answer[:, 1:]
        logits = model.unembed(model.ln_final(resid[:, :-1][target][None]))[0]
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:][target])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimiser.step()
        if progress:
            progress(MODELS[0] if include_forget else MODELS[1], step, recipe.steps)
    model.set_tokenizer(pieces)
    return model.eval()


def _rate(step: int, recipe: Recipe) -> float:
    """Learning rate of the update with that number, counted from 1."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / recipe.steps)
    return recipe.lr * min(1.0, step / recipe.warmup) * cosine


def _batches(
    examples: Sequence[tuple[str, str]], tokenizer: Any, recipe: Recipe
) -> list[tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]]:
    """Token ids and which of them belong to the answer, one pair an update.

    Examples of similar length are put together, only roughly, so that no batch is of one form alone.
    """
    prompts, answers = (
        tokenizer(list(side), add_special_tokens=False)["input_ids"] for side in zip(*examples, strict=True)
    )
    rows = [
        ([tokenizer.bos_token_id, *p, *a, tokenizer.eos_token_id], 1 + len(p))
        for p, a in zip(prompts, answers, strict=True)
    ]
    rng = random.Random(recipe.seed)
    stretch, made = 8 * recipe.batch, []
    for at in range(0, len(rows), stretch):
        alike = sorted(rows[at : at + stretch], key=lambda row: len(row[0]) + rng.uniform(0, 10))
        batches = [alike[i : i + recipe.batch] for i in range(0, len(alike), recipe.batch)]
        rng.shuffle(batches)
        made += [_padded(batch, tokenizer.pad_token_id) for batch in batches]
    return made


def _padded(
    rows: Sequence[tuple[list[int], int]], pad: int
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Rows filled up on the right; a row is its ids and where its answer starts."""
    width = max(len(ids) for ids, _ in rows)
    tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    start = torch.tensor([start for _, start in rows])[:, None]
    end = torch.tensor([len(ids) for ids, _ in rows])[:, None]
    position = torch.arange(width)
    return tokens, (position >= start) & (position < end)
