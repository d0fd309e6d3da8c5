"""Train, store, check and load the embedded default model.

Two small transformers share one recipe. `"builtin"` was trained on every author of the embedded world.
`"builtin-retrain"`, the retrained model, was trained without the authors of the forget set. Both ship as ordinary
Hugging Face directories of the GPT-NeoX architecture with sequential residual, so every wrap and tool can load them.

1. Build a byte-level BPE tokenizer from the world's texts without names, so that names become several tokens.
2. Draw questions with answers, short biographies and plain sentences (`data.builtin_training`).
3. Train with AdamW for one epoch, with the loss on answers only.
4. Write two Hugging Face directories under one new name, then the recipe with that name and the checksums. The recipe
   is written last, by rename, so a reader sees the old models or the new ones.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
)

from unpact_lens.data.benchmark import QA
from unpact_lens.data.builtin import load_builtin
from unpact_lens.data.builtin_training import tokenizer_texts, training_examples
from unpact_lens.data.emphasis import EMPHASIS, Template, unrelated_prefix
from unpact_lens.errors import InputError, nearest
from unpact_lens.json_files import json_text, read_json
from unpact_lens.models import hooked
from unpact_lens.models.convert import attach_tokenizer, to_bridge, to_hooked
from unpact_lens.models.export import export_hf
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.lens_version import HAS_HOOKED, HookedTransformer, HookedTransformerConfig
from unpact_lens.models.random_state import random_state_kept
from unpact_lens.writing import commit, contents, scratch, sha256, steady

ASSETS = Path(__file__).parent / "assets" / "builtin"
MODELS = ("builtin", "builtin-retrain")
"""Names of the shipped models: the original model and the retrained model."""

PAD, BOS, EOS = "<|pad|>", "<|begin|>", "<|end|>"
RECIPE = "recipe.json"
"""File that holds the recipe and names the folder of the models, with the checksum of each file; it is written last."""

WEIGHTS = "weights-"
"""Start of the name of the folder that holds both models; the rest is made from their checksums."""

_REMEDY = "restore the package's files, or train it again with `unpact builtin --rebuild`"

Progress = Callable[[str, int, int], None]
"""Callback with the model's name, the number of updates done, and the total number of updates."""

Ways = dict[str, Callable[[QA], Sequence[str]]]
"""Functions from a question to the prompts that ask it, by the name of the way of asking."""


@dataclass(frozen=True)
class Recipe:
    """Hold the hyperparameters of the default model.

    The architecture is GPT-NeoX with sequential residual: LayerNorm, GELU, rotary positions over the whole head,
    biases, and an untied unembedding without a bias.

    Attributes:
        seed: Random seed of the world, the examples and the initial weights.
        vocabulary: Vocabulary size of the tokenizer, bytes and special tokens included.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        n_heads: Number of attention heads in each block.
        d_mlp: Number of neurons in each block.
        n_ctx: Largest input, in tokens.
        steps: Number of optimiser updates.
        batch: Number of examples in each update.
        lr: Peak learning rate, after a linear warm-up and before a cosine decay to zero.
        warmup: Number of warm-up updates.
        weight_decay: Weight decay of AdamW, on matrices only.
        beta2: Second-moment decay of AdamW.
        clip: Largest norm of the gradient.
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


def load_builtin_model(which: str = "builtin", directory: Path = ASSETS) -> HookedModel:
    """Load one of the shipped models.

    Args:
        which: One of `MODELS`.
        directory: Directory of the files.

    Returns:
        The model as a `HookedTransformer` (a bridge where TransformerLens has none) in eval mode, with raw weights and
        its tokenizer. The tokenizer prepends BOS, and `cfg.default_prepend_bos` is True.

    Raises:
        InputError: If there is no such model, or a file is missing or differs from its recorded checksum.
    """

    def read() -> HookedModel:
        path = builtin_directory(which, directory)
        hf = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, attn_implementation="eager", trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        return to_hooked(hf, tokenizer) if HAS_HOOKED else to_bridge(hf, tokenizer, own=True)

    return steady(directory / RECIPE, read, checked=False)


def builtin_directory(which: str = "builtin", directory: Path = ASSETS) -> Path:
    """Return the Hugging Face directory of one of the shipped models, after checking its files.

    Args:
        which: One of `MODELS`.
        directory: Directory of the files.

    Raises:
        InputError: If there is no such model, or a file is missing or differs from its recorded checksum.

    >>> sorted(path.name for path in builtin_directory().glob("*.safetensors"))
    ['model.safetensors']
    """
    if which not in MODELS:
        raise InputError(f"unknown built-in model {which!r}; {nearest(which, MODELS)}")
    folder, checksums = _read_notes(directory)
    for name, checksum in checksums.items():
        if name.startswith(f"{which}/"):
            _check_file(directory / folder / name, checksum)
    return directory / folder / which


def _read_notes(directory: Path) -> tuple[str, dict[str, str]]:
    """Read the name of the folder that holds the models, and the checksum of each of its files."""
    path = directory / RECIPE
    if not path.is_file():
        raise InputError(f"the built-in model's file {path} is missing; {_REMEDY}")
    try:
        noted = read_json(path)
        return str(noted["folder"]), dict(noted["sha256"])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"the built-in model's file {path} is not a recipe; {_REMEDY}") from None


def _check_file(path: Path, expected: str | None) -> None:
    if not path.is_file():
        raise InputError(f"the built-in model's file {path} is missing; {_REMEDY}")
    if (found := sha256(path)) != expected:
        raise InputError(f"the built-in model's file {path} is damaged (sha256 {found[:12]}…); {_REMEDY}")


def rebuild(
    progress: Progress | None = None, recipe: Recipe | None = None, directory: Path = ASSETS
) -> tuple[HookedTransformer, HookedTransformer]:
    """Train both models and replace their files.

    Args:
        progress: Callback after every update.
        recipe: Hyperparameters. If None, the defaults.
        directory: Directory of the files. They are replaced only after both models are trained.

    Returns:
        The original model and the retrained model.

    Raises:
        InputError: If the directory cannot be written to.
    """
    recipe = recipe or Recipe()
    with scratch(directory) as work:
        made, tokenizer = work / "models", work / "tokenizer"
        made.mkdir()
        build_tokenizer(recipe, tokenizer)
        seconds = {}
        for which in MODELS:
            start = time.process_time()
            model = train_builtin(which == "builtin", recipe, tokenizer, progress)
            seconds[which] = round(time.process_time() - start, 1)
            export_hf(model, made / which)
        checksums = contents(made)
        folder = WEIGHTS + hashlib.sha256(json.dumps(checksums).encode()).hexdigest()[:12]
        notes = {
            "recipe": dataclasses.asdict(recipe),
            "world": world_digest(recipe.seed),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "cpu_seconds": seconds,
            "torch": torch.__version__,
            "sha256": checksums,
        }
        with scratch(directory) as ready:
            os.replace(made, ready / folder)
            commit(
                directory, ready, RECIPE, lambda places: json_text({**notes, "folder": places[folder]}),
                _written(directory),
            )  # fmt: skip
    return load_builtin_model(MODELS[0], directory), load_builtin_model(MODELS[1], directory)


def _written(directory: Path) -> list[str]:
    """Return the relative paths of the files that the recipe in a directory names; none if it is damaged."""
    try:
        folder, checksums = _read_notes(directory)
    except InputError:  # A missing or damaged recipe is what a rebuild repairs.
        return []
    return [f"{folder}/{name}" for name in checksums]


def world_digest(seed: int = 0) -> str:
    """Compute a checksum of the benchmark; a test compares it with the world that the weights were trained on."""
    items = load_builtin(seed).all_items()
    told = sorted((q.group, q.id, q.prompt, q.answer, q.fact, q.kind, q.subject, *q.paraphrases) for q in items)
    return hashlib.sha256(repr(told).encode()).hexdigest()


def build_tokenizer(recipe: Recipe, directory: Path) -> None:
    """Train the tokenizer and save it in Hugging Face form.

    Args:
        recipe: Hyperparameters; seed, vocabulary and context length are used.
        directory: Directory of the files.
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
    # The world's texts are repeated so that its words become whole tokens and other English words a few tokens.
    bpe.train_from_iterator([*tokenizer_texts(recipe.seed) * 4, *(f" {w}" for w in words)], trainer)
    begin = (BOS, bpe.token_to_id(BOS))
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[begin])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=recipe.n_ctx
    ).save_pretrained(directory)


def _random_hooked(recipe: Recipe) -> HookedModel:
    """Return a `HookedTransformer` of the recipe's architecture with random weights and no tokenizer."""
    model = HookedTransformer(
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
    model.init_weights()
    model.unembed.b_U.requires_grad_(False)  # GPT-NeoX has no output bias
    return model


def _random_bridge(recipe: Recipe) -> HookedModel:
    """Return a bridge of the recipe's architecture with random weights of the same distribution, and no tokenizer."""
    config = GPTNeoXConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.d_model,
        num_hidden_layers=recipe.n_layers,
        num_attention_heads=recipe.n_heads,
        intermediate_size=recipe.d_mlp,
        max_position_embeddings=recipe.n_ctx,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        use_parallel_residual=False,
        attention_bias=True,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    )
    model = GPTNeoXForCausalLM(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.8 / recipe.d_model**0.5)  # as TransformerLens initialises
        else:
            torch.nn.init.constant_(weight, float("norm" in name and name.endswith("weight")))
    return to_bridge(model, None, own=True)


def train_builtin(
    include_forget: bool,
    recipe: Recipe,
    tokenizer: Path | None = None,
    progress: Progress | None = None,
    *,
    draws: int | None = None,
) -> HookedModel:
    """Train one of the two models from random weights.

    The same recipe gives the same examples and initial weights. The trained weights also depend on the machine and its
    number of threads, through rounding. TransformerLens 4 has other initial weights of the same distribution. The
    global random state is not changed.

    Args:
        include_forget: Whether the authors of the forget set are among the examples.
        recipe: Hyperparameters.
        tokenizer: Directory of the tokenizer. If None, that of the shipped models.
        progress: Callback after every update.
        draws: Random seed of the examples and the initial weights, for another model of the same world. If None, that
            of the recipe.

    Returns:
        The model in eval mode with its tokenizer.
    """
    pieces = AutoTokenizer.from_pretrained(tokenizer or builtin_directory(), trust_remote_code=False)
    examples = training_examples(recipe.seed, include_forget, recipe.steps * recipe.batch, draws=draws)
    with random_state_kept():
        torch.manual_seed(recipe.seed if draws is None else draws)
        model = _random_hooked(recipe) if HAS_HOOKED else _random_bridge(recipe)
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay}
    others = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
    optimiser = torch.optim.AdamW([decayed, others], lr=recipe.lr, betas=(0.9, recipe.beta2))
    model.train()
    for step, (tokens, is_answer) in enumerate(_batches(examples, pieces, recipe), start=1):
        for group in optimiser.param_groups:
            group["lr"] = _rate(step, recipe)
        target = is_answer[:, 1:]  # [batch, pos - 1]
        logits = _answer_logits(model, tokens, target)  # [answer token, d_vocab]
        loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:][target])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimiser.step()
        if progress:
            progress(MODELS[0] if include_forget else MODELS[1], step, recipe.steps)
    attach_tokenizer(model, pieces)
    return model.eval()


def _answer_logits(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], target: Bool[Tensor, "batch before"]
) -> Float[Tensor, "answer d_vocab"]:
    """Compute the logits at the positions that predict answer tokens, all rows together."""

    def keep(resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "1 answer d_model"]:
        return resid[:, :-1][target][None]

    if hooked.is_bridge(model):
        return hooked.read_out_at(model, tokens, keep)[0]
    resid = model(tokens, stop_at_layer=model.cfg.n_layers)  # [batch, pos, d_model]
    return model.unembed(model.ln_final(keep(resid)))[0]


def _rate(step: int, recipe: Recipe) -> float:
    """Compute the learning rate of update `step`, counted from 1."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / recipe.steps)
    return recipe.lr * min(1.0, step / recipe.warmup) * cosine


def _batches(
    examples: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> list[tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]]:
    """Return the token ids and the answer mask of each update.

    Examples of roughly similar length share a batch. Some randomness keeps several question forms in each batch.
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
    """Pad rows on the right and return their ids and answer masks; a row is its ids and the start of its answer."""
    width = max(len(ids) for ids, _ in rows)
    tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    start = torch.tensor([start for _, start in rows])[:, None]
    end = torch.tensor([len(ids) for ids, _ in rows])[:, None]
    position = torch.arange(width)
    return tokens, (position >= start) & (position < end)


def builtin_quality(model: HookedModel, control: HookedModel, seed: int = 0, every: int = 1) -> dict[str, float]:
    """Compute the fraction of questions answered with the fact, by group and by way of asking.

    Args:
        model: Default model.
        control: Its retrained model.
        seed: Random seed of the world that both were trained on.
        every: Use every n-th item of each group only.

    Returns:
        Fraction for each `"{model or control}/{group}/{way}"`. Groups are those of the benchmark, with `near` and
        `far` separate; for `unknown` the fact is the refusal. The ways of asking are:
        - `plain`: the prompt;
        - `held_out`: held-out paraphrases;
        - `distractor`: another author is named first, in a wording that training did not contain;
        - `deletion`: one filler word is missing;
        - `prefixed`: unrelated text comes first;
        - each emphasis template, on name and attribute, and as `{template}/random` on three other words.
    """
    bench = load_builtin(seed)
    ways = _ways(seed, bench.plain_text.texts if bench.plain_text else ())
    groups = {"forget": bench.forget, "near": bench.near, "far": bench.far}
    groups |= {"general": bench.general, "unknown": bench.unknown}
    found = {}
    for who, asked in (("model", model), ("control", control)):
        for group, items in groups.items():
            for way, ask in ways.items():
                pairs = [(prompt, qa.fact) for qa in items[::every] for prompt in ask(qa)]
                answers = generate_answers(asked, [p for p, _ in pairs], max_new_tokens=bench.max_new_tokens)
                right = sum(fact in answer for (_, fact), answer in zip(pairs, answers, strict=True))
                found[f"{who}/{group}/{way}"] = right / len(pairs)
    return found


def _ways(seed: int, sentences: Sequence[str]) -> Ways:
    """Return the ways of asking; the headline prompt is "What is the … of …?"."""
    rng = random.Random(f"quality/{seed}")
    ways: Ways = {
        "plain": lambda qa: (qa.prompt,),
        "held_out": lambda qa: qa.paraphrases,
        "distractor": lambda qa: (qa.meta["distractor"],),
        "deletion": lambda qa: [qa.prompt.replace(word, "", 1) for word in (" is", " the", " of")],
        "prefixed": lambda qa: (unrelated_prefix(qa.prompt, rng.choice(sentences)),),
    }
    for template in EMPHASIS.values():
        ways[template.name] = functools.partial(_emphasised, template, None)
        if template.needs_words:
            ways[f"{template.name}/random"] = functools.partial(_emphasised, template, rng)
    return ways


def _emphasised(template: Template, rng: random.Random | None, qa: QA) -> Sequence[str]:
    """Emphasise name and attribute in the headline prompt, or three other words if `rng` is given."""
    key = [*qa.subject.split(), *qa.meta["noun"].split()]
    return (template.apply(qa.prompt, rng.sample(["What", "is", "the", "of"], 3) if rng else key),)
