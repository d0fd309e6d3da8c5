"""Check what is asked of a method and a model, and tokenise the data of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.asking import Asking
from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.bounds import part_masks
from unpact_lens.unlearning.dataset import Source, check_overlap, examples, owners
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.reference_cache import REFERENCES, Store
from unpact_lens.unlearning.registry import METHODS, Method, cannot_adapt
from unpact_lens.unlearning.self_rehearsal import REHEARSAL, self_rehearsal
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.trainable import trainable


@dataclass(frozen=True)
class Request:
    """Hold what is to be unlearned, and how.

    Attributes:
        method: Unlearning method.
        model: Model that the caller gave.
        forget: Forget set.
        retain: Retain set, or None.
        settings: Hyperparameters that all methods share.
        options: Hyperparameters of the method.
        seed: Random seed.

    Raises:
        InputError: If the method needs a retain set and there is none, cannot start from this model, or cannot train
        adapters and a rank is given.
    """

    method: Method
    model: HookedModel
    forget: Source
    retain: Source | None
    settings: Settings
    options: dict[str, Any]
    seed: int

    def __post_init__(self) -> None:
        name = self.method.name
        empty = not (self.retain.texts if isinstance(self.retain, Corpus) else self.retain)
        if self.method.retain is not None and empty and not self.method.rehearses:
            without = name.rsplit("_", 1)[0]
            raise InputError(
                f"method {name!r} needs a retain set; give retain=" + f", or use {without!r}" * (without in METHODS)
            )
        if (self.method.rehearses or self.method.writes) and isinstance(self.forget, Corpus):
            raise InputError(
                f"method {name!r} puts other subjects into the forget questions, and the forget set is raw text; give "
                "QA items"
            )
        if self.method.adapts is not True and self.settings.rank is not None:
            raise InputError(f"rank={self.settings.rank}: {cannot_adapt(self.method)}; leave rank out")
        if isinstance(self.model, CombinedModel) and not continues(self.method, self.model):
            able = [m.name for m in METHODS.values() if continues(m, self.model)]
            raise InputError(
                f"method {name!r} cannot start from {type(self.model).__name__}, a combined model; give one of its "
                "members" + "".join(f", or method={other!r}" for other in able)
            )

    def job(self, folder: Path | None) -> tuple[Job, Examples | None]:
        """Tokenise both sets.

        Args:
            folder: Directory of the run's state, or None.

        Returns:
            The run as the method may prepare it, and the retain set if the method has a retain term.
        """
        config, retain = self.settings, self.retain
        model = self.model if self.method.start is None else self.method.start(self.model, self.options)
        trained = trainable(model, config.modules)
        if config.only is not None:
            part_masks(model, config.only, trained)
        limit = None if config.reference_mb is None else int(config.reference_mb * 2**20)
        store = Store(limit, folder and folder / REFERENCES)
        data = Examples(examples(model, self.forget, config, "forget"), model, owners(self.forget, config), store)
        if retain:
            check_overlap(self.forget, retain)
        items = self.written(model) if self.method.rehearses or self.method.writes else ()
        written = Examples(examples(model, items, config, "retain"), model, store=store) if items else None
        kept = None
        if self.method.retain is not None and self.method.rehearses:
            kept = written
        elif self.method.retain is not None and retain:
            kept = Examples(examples(model, retain, config, "retain"), model, store=store)
        return Job(self.model, model, self.forget, config, self.options, self.seed, data, items, written, retain), kept

    def written(self, model: HookedModel) -> tuple[QA, ...]:
        """Let the model write the retain set that the method rehearses in place of a given one."""
        assert not isinstance(self.forget, Corpus)  # refused at construction
        given = self.settings
        asked = Asking(chat=given.chat, prefill=given.prefill, max_new_tokens=given.max_new_tokens)
        size = {name: self.options[name] for name in REHEARSAL}
        return self_rehearsal(model, self.forget, **size, seed=self.seed, stop=given.stop, asked=asked)


def continues(method: Method, model: HookedModel) -> bool:
    """Return whether a further request of this method may start from this combined model."""
    return method.continues is not None and isinstance(model, method.continues)
