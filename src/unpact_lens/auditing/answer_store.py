"""Keep every greedy answer of an audit in a file, so that nothing is asked twice and nothing is lost on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from unpact_lens.auditing.endpoint_scores import completing
from unpact_lens.data.benchmark import Benchmark
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.source_hash import source_hash

ANSWERS = "answers.jsonl"
"""File of the answers, one JSON object a line."""

CHUNK = 64
"""Number of answers that are generated before they are written."""


@dataclass(frozen=True)
class KeptAnswer:
    """Hold one greedy answer and all that it depends on.

    Attributes:
        model: Fingerprint of the model that was asked.
        prompt: Prompt.
        prefill: Answer prefix.
        chat: True, or the options of the template, if the prompt went through the chat template.
        max_new_tokens: Largest number of tokens of the answer.
        stop: Texts that end an answer.
        text: Answer.
        code: First characters of the hash of the package's source.
    """

    model: str
    prompt: str
    prefill: str
    chat: bool | Mapping[str, object]
    max_new_tokens: int
    stop: tuple[str, ...]
    text: str
    code: str

    @property
    def question(self) -> str:
        """Return a hash of all but the answer."""
        facts = [self.model, self.prompt, self.prefill, self.chat, self.max_new_tokens, self.stop, self.code]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass
class AnswerFile:
    """Keep the answers of registered models in a file; other models are asked and not kept.

    Copies of a model with changed weights are not registered, so a probe that changes weights is asked anew.

    Attributes:
        file: JSONL file. Lines are only added. A line that was cut off by an interruption is ignored.
    """

    file: Path
    _known: dict[str, KeptAnswer] = field(default_factory=dict, repr=False)
    _identity: dict[int, tuple[HookedModel, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.code = source_hash()[:16]
        self._known = {kept.question: kept for kept in read_answers(self.file)}

    def register(self, model: HookedModel, identity: str) -> None:
        """Keep the answers of this model from now on."""
        self._identity = {k: v for k, v in self._identity.items() if v[1] != identity}
        self._identity[id(model)] = (model, identity)

    def forget_models(self) -> None:
        """Hold no model any more, so that it can leave memory."""
        self._identity.clear()

    def identity(self, model: HookedModel) -> str | None:
        """Return the fingerprint of a registered model, else None."""
        held = self._identity.get(id(model))
        return held[1] if held is not None and held[0] is model else None

    def answers(
        self,
        model: HookedModel,
        bench: Benchmark,
        wanted: Sequence[tuple[str, str]],
        generate: Callable[[Sequence[tuple[str, str]]], list[str]],
    ) -> list[str]:
        """Return one answer for each pair of prompt and answer prefix; see `unpact_lens.evaluation.answers`."""
        identity = self.identity(model)
        if identity is None:
            return generate(wanted)
        if isinstance(model, Endpoint):
            generate = completing(model, bench)
        blank = [
            KeptAnswer(identity, p, o, bench.chat, bench.max_new_tokens, bench.stop, "", self.code) for p, o in wanted
        ]
        missing = [i for i, kept in enumerate(blank) if kept.question not in self._known]
        for start in range(0, len(missing), CHUNK):
            some = missing[start : start + CHUNK]
            texts = generate([wanted[i] for i in some])
            made = [replace(blank[i], text=text) for i, text in zip(some, texts, strict=True)]
            self._write(made)
        return [self._known[kept.question].text for kept in blank]

    def _write(self, made: Sequence[KeptAnswer]) -> None:
        """Add answers to the file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(vars(kept), ensure_ascii=False) + "\n" for kept in made)
        self._known |= {kept.question: kept for kept in made}


def read_answers(file: Path) -> Iterator[KeptAnswer]:
    """Yield the answers of a file; lines that cannot be read are skipped."""
    if not file.is_file():
        return
    # Not splitlines(), which would also split at line separators inside a JSON string.
    for line in file.read_text(encoding="utf-8").split("\n"):
        try:
            record = json.loads(line)
            yield KeptAnswer(**{**record, "stop": tuple(record["stop"])})
        except (json.JSONDecodeError, TypeError, KeyError):
            continue
