"""Answer the requests of the explorer's page with plain JSON, by calling the public functions."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import nn
from typing_extensions import Unpack

from unpact_lens.comparison.model_pair import ModelPair
from unpact_lens.data.as_facts import FactSource, as_benchmark
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.display import one_line
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import prefill_for
from unpact_lens.explorer.request import Request, read_request
from unpact_lens.explorer.snippets import Snippets
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.ready import weights_version

LABELS = {"before": "original", "after": "unlearned", "control": "retrained"}
"""What each role is called in the page."""

KEPT = 64
"""Largest number of results that a session keeps."""

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """Hold what a request is about: the question and how it is asked.

    Attributes:
        prompt: Prompt.
        answer: Answer, leading space included.
        options: `chat` and `prefill`, as keyword arguments.
        qa: The question as a `QA`; one of the session's facts if it is one.
        own: Whether the answer is the original model's greedy answer, because none was given.
    """

    prompt: str
    answer: str
    options: AskingOptions
    qa: QA
    own: bool = False


class ExplorerSession:
    """Hold the models of an explorer, and answer its requests.

    A result is computed once and kept, until a weight of a model changes. Requests of several threads take turns.

    Attributes:
        models: The models by role: `"before"`, `"after"`, and `"control"` if there is a retrained model.
        names: Name of each model, for the page; empty if unknown.
        bench: Facts to pick from, or None.
        snippets: Writer of the code behind each view.
    """

    def __init__(
        self,
        before: HookedModel,
        after: HookedModel,
        control: HookedModel | None = None,
        facts: FactSource | None = None,
        *,
        sources: Mapping[str, str] | None = None,
        **asking: Unpack[AskingOptions],
    ) -> None:
        """Check that the models can be compared, and read the facts.

        Args:
            before: Original model.
            after: Unlearned model, of the same shape, vocabulary and tokenizer.
            control: Retrained model, or None.
            facts: A `Benchmark`, or anything that `from_pairs` reads; None if prompts are typed.
            sources: What each model was loaded from, by role, so that copied code loads it; None if unknown.
            **asking: How models are asked; see `AskingOptions`. By default as the benchmark says.

        Raises:
            InputError: If the models cannot be compared, one has no tokenizer, or the facts cannot be read.
        """
        ModelPair.of(before, after)
        given = {"before": before, "after": after, "control": control}
        self.models = {role: model for role, model in given.items() if model is not None}
        for role, model in self.models.items():
            if model.tokenizer is None:
                raise InputError(f"{role} has no tokenizer, and the explorer shows text; load it with its tokenizer")
        self.bench = _benchmark(facts, asking)
        self._asking = asking
        self.names = dict(sources) if sources else _names(self.models)
        self.snippets = Snippets(tuple(self.models), sources or {})
        self._facts = {(q.prompt, q.answer): q for q in (self.bench.all_items() if self.bench else ())}
        self._results: OrderedDict[tuple[object, ...], object] = OrderedDict()
        self._weights: object = None
        self._lock, self._computing = threading.RLock(), threading.RLock()

    def __repr__(self) -> str:
        """Return one line with the models and the number of facts."""
        models = ", ".join(f"{LABELS[role]} {name}".strip() for role, name in self.names.items())
        return one_line("ExplorerSession", f"{models}; {len(self._facts)} facts")

    @property
    def asking(self) -> Asking:
        """Return how models are asked: as given, else as the benchmark says."""
        bench = self.bench
        as_benchmark: AskingOptions = {} if bench is None else {
            "chat": bench.chat, "prefill": bench.prefill, "max_new_tokens": bench.max_new_tokens,
        }  # fmt: skip
        return Asking(**as_benchmark).but(**self._asking)

    @property
    def pair(self) -> tuple[HookedModel, HookedModel]:
        """Return the original and the unlearned model."""
        return self.models["before"], self.models["after"]

    @property
    def stop(self) -> tuple[str, ...]:
        """Return the texts that end an answer."""
        return ("\n",) if self.bench is None else tuple(self.bench.stop)

    def facts(self) -> Iterable[QA]:
        """Return the facts to pick from."""
        return self._facts.values()

    def reply(self, payload: object) -> dict[str, object]:
        """Answer a request, also a wrong one.

        Args:
            payload: Request as it came from JSON; see `Request`.

        Returns:
            `{"data": view}`, or `{"error": message}` with a message of one line.
        """
        try:
            return {"data": self.view(read_request(payload))}
        except InputError as error:
            message = str(error)
        except Exception as error:
            message = f"internal error: {type(error).__name__}: {error}"
        return {"error": " ".join(message.split())}

    def view(self, request: Request) -> dict[str, object]:
        """Compute a view, or return what is kept of it.

        Args:
            request: Checked request.

        Returns:
            A JSON object; each view is described at its function in `unpact_lens.explorer.views`.

        Raises:
            InputError: If the prompt is empty or too long, or a layer, head, position or word does not exist.
        """
        from unpact_lens.explorer.views import VIEWS

        self._forget_if_changed()
        return VIEWS[request.view](self, request)

    def asked(self, request: Request) -> Asked:
        """Return the question of a request. An empty answer stands for the original model's greedy answer.

        Raises:
            InputError: If the prompt is empty, or the model's own answer is.
        """
        if not request.prompt.strip():
            raise InputError("the prompt is empty; type a question, or pick a fact")
        answer, own = request.answer, not request.answer.strip()
        if own:
            answer = self._greedy_answer(request.prompt)
        qa = self._facts.get((request.prompt, answer)) or QA(request.prompt, answer)
        asking = self.asking
        options: AskingOptions = {"chat": asking.chat} if asking.chat else {}
        if prefill := self.prefill(qa):
            options["prefill"] = prefill
        if "batch_tokens" in self._asking:
            options["batch_tokens"] = asking.batch_tokens
        return Asked(request.prompt, answer, options, qa, own)

    def prefill(self, qa: QA) -> str:
        """Return the session's answer prefix for a question."""
        prefill = self.asking.prefill
        if "prefill" in self._asking or self.bench is None:
            return prefill if isinstance(prefill, str) else ""
        return prefill_for(self.bench, qa)

    def kept(self, key: tuple[object, ...], compute: Callable[[], T]) -> T:
        """Return the result of a key, computed at most once as long as it is kept; what is kept never waits."""
        found = self._kept(key)
        if found is not None:
            return found  # type: ignore[return-value]
        with self._computing:
            found = self._kept(key)  # another thread may have computed it meanwhile
            if found is None:
                found = compute()
                with self._lock:
                    self._results[key] = found
                    while len(self._results) > KEPT:
                        self._results.popitem(last=False)
        return found  # type: ignore[return-value]

    def _kept(self, key: tuple[object, ...]) -> object | None:
        """Return a kept result, and note that it was used; None if there is none."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
            return self._results.get(key)

    def _greedy_answer(self, prompt: str) -> str:
        """Return the original model's greedy answer, with the space that begins it.

        Raises:
            InputError: If it is empty.
        """
        from unpact_lens.explorer.measures import greedy

        text = greedy(self, "before", prompt, self.prefill(QA(prompt, "?")))
        if not text.strip():
            raise InputError("the original model answers with an empty text; type an answer")
        return text

    def _forget_if_changed(self) -> None:
        """Drop all results if a weight of a model has changed since the last request."""
        now = tuple(weights_version(m.parameters()) for m in self.models.values() if isinstance(m, nn.Module))
        with self._lock:
            if now != self._weights:
                self._results.clear()
                self._weights = now


def _benchmark(facts: FactSource | None, asking: AskingOptions) -> Benchmark | None:
    """Return the facts as a benchmark; None if there are none to pick from."""
    return None if facts is None else as_benchmark(facts, "facts", chat=asking.get("chat", False))


def _names(models: Mapping[str, HookedModel]) -> dict[str, str]:
    """Return the name in each model's configuration; empty names if they do not tell the models apart."""
    names = {role: str(getattr(model.cfg, "model_name", "") or "") for role, model in models.items()}
    return names if len(set(names.values())) == len(names) else dict.fromkeys(names, "")
