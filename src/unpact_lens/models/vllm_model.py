"""Ask a model that vLLM runs in this process, with the calls of an `Endpoint` and without a server.

vLLM is fast at generating and at scoring, and has no hooks. Use it for the questions of an audit and for leave-one-out;
load a hooked model for decompositions and comparisons.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from unpact_lens.errors import InputError
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.hooked import Tokenizer
from unpact_lens.models.http_client import Reply


@runtime_checkable
class TokenLogProb(Protocol):
    """The part of `vllm.logprobs.Logprob` that is read."""

    logprob: float
    decoded_token: str | None


@runtime_checkable
class Completion(Protocol):
    """The part of `vllm.CompletionOutput` that is read."""

    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, TokenLogProb]] | None


@runtime_checkable
class Output(Protocol):
    """The part of `vllm.RequestOutput` that is read."""

    prompt_token_ids: Sequence[int]
    prompt_logprobs: Sequence[Mapping[int, TokenLogProb] | None] | None
    outputs: Sequence[Completion]


@runtime_checkable
class Engine(Protocol):
    """The part of `vllm.LLM` that is used."""

    def generate(self, prompts: list[str], sampling_params: list[object], *, use_tqdm: bool) -> list[Output]:
        """Run all prompts."""

    def get_tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer."""


class VllmModel(Endpoint):
    """Answer the requests of an `Endpoint` by a vLLM engine in this process.

    Args:
        engine: A `vllm.LLM`.
        name: Name of the model in results.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.url, self.model, self.shift = f"vllm:{name}", name, 0
        self._dialect = None
        self._pieces, self._number = [], {}
        self._engine = engine

    def _ask(self, bodies: Sequence[Mapping[str, object]]) -> list[Reply]:
        """Run completions greedily, all in one call, and return them as an endpoint would."""
        from vllm import SamplingParams  # type: ignore[import-not-found]

        names = ("max_tokens", "stop", "logprobs", "prompt_logprobs")
        how = [SamplingParams(temperature=0.0, **{n: body[n] for n in names if n in body}) for body in bodies]
        found = self._engine.generate([str(body["prompt"]) for body in bodies], how, use_tqdm=False)
        return [{"choices": [self._choice(output)]} for output in found]

    def _choice(self, output: Output) -> dict[str, object]:
        """Return vLLM's output of one request as the choice of a completions reply."""
        (made,) = output.outputs
        choice: dict[str, object] = {"text": made.text}
        if made.logprobs is not None:
            own = [self._entry(token, at) for token, at in zip(made.token_ids, made.logprobs, strict=False)]
            choice["logprobs"] = {
                "tokens": [entry["decoded_token"] for entry in own],
                "token_logprobs": [entry["logprob"] for entry in own],
            }
        if output.prompt_logprobs is not None:
            choice["prompt_logprobs"] = [
                {str(token): self._entry(token, at)}
                for token, at in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
            ]
        return choice

    def _entry(self, token: int, at: Mapping[int, TokenLogProb] | None) -> dict[str, object]:
        """Return the text and the log-probability of one token; the first token of a prompt has none."""
        if at is None:
            return {"decoded_token": self._engine.get_tokenizer().decode([token]), "logprob": None}
        return {"decoded_token": at[token].decoded_token, "logprob": float(at[token].logprob)}


def vllm_model(model: str | os.PathLike[str], **options: object) -> VllmModel:
    """Load a model with vLLM, for asking and scoring; pass it to `attribute` or `audit` in place of a model.

    Args:
        model: Directory or hub id of a Hugging Face model.
        options: Options of `vllm.LLM`, e.g. `dtype="bfloat16"`, `gpu_memory_utilization=0.6`.

    Returns:
        An `Endpoint` that runs in this process.

    Raises:
        InputError: If vLLM is not installed or cannot load the model.

    Source: Kwon et al. 2023, arXiv 2309.06180 (vLLM).
    """
    try:
        from vllm import LLM
    except ImportError as error:
        raise InputError(
            f"vllm_model needs vLLM, which cannot be imported ({error}); pip install 'unpact-lens[vllm]' on a machine "
            "with a GPU, or serve the model elsewhere and give Endpoint(url, name)"
        ) from None
    name = os.fspath(model)
    try:
        engine = LLM(model=name, **options)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"vLLM cannot load {name!r}: {' '.join(str(error).split())[:300]}") from error
    return VllmModel(engine, Path(name).name)
