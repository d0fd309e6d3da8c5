r"""Register ECO: add noise to the embeddings of a forget subject's name, with the weights unchanged.

$e_j \leftarrow e_j + \sigma\,\mathrm{rms}(e_j)\,n_j$ at the j-th token of a name. $n_j$ is a standard normal vector,
drawn once for each token of each name, so equal inputs give equal results.

Algorithm:
    1. Tokenise each subject's name as the forget prompts write it, and by itself with and without a space before it.
    2. At inference, look for these token sequences from left to right, anywhere in the text. The longest one counts.
    3. Add the noise at their tokens. The strength $\sigma$ is the smallest at which the stop rule holds.

The whole text that is read decides which tokens belong to a name. In one forward pass a name therefore has noise at all
its tokens, also where its first tokens predict its last. Generation reads the text again when a generated token
completes a name, so its answers equal those of forward passes without a cache.

Source: Liu et al. 2024, arXiv 2406.07933.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.hooked import EMBED, HookedModel, Hooks
from unpact_lens.models.reading import Reading
from unpact_lens.models.tokens import continuation_ids, encode_context, text_ids
from unpact_lens.results import storable
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.ensembles import CombinedModel
from unpact_lens.unlearning.job import Job, Plan
from unpact_lens.unlearning.methods.task_vector import set_coefficient
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.trainer import Run

Ids = tuple[int, ...]

Found = tuple[tuple[int, int, int], ...]
"""Tokens of names in one text: position in the text, index of the name, index of the token in the name."""


@storable
@dataclass(init=False, repr=False, eq=False)
class CorruptedNames(CombinedModel):
    r"""Predict with one model that reads noise at the names of some subjects.

    $e_j \leftarrow e_j + \sigma\,\mathrm{rms}(e_j)\,n_j$ at the j-th token of a name. Names are found in the whole text
    that is read, wherever they are. Generation reads the text again when a generated token completes a name. Trailing
    tokens with the id 0 are left out of a name, because texts are padded with this id.

    Attributes:
        names: For each subject, the token sequences of its name.
        noise: For each subject, the vectors $n_j$: one for each token of its longest sequence.
        strength: Strength $\sigma$. With 0, the predictions are those of the model itself.
        members: The model, alone.
    """

    names: tuple[tuple[Ids, ...], ...]
    noise: tuple[Float[Tensor, "token d_embed"], ...]
    strength: float
    members: tuple[HookedModel, ...] = CombinedModel.members  # type: ignore[assignment]

    reads_as_given = False

    def __init__(
        self,
        members: Sequence[HookedModel],
        names: Sequence[Sequence[Sequence[int]]],
        noise: Sequence[Float[Tensor, "token d_embed"]],
        strength: float,
    ) -> None:
        super().__init__(members)
        require_acting_hooks(
            members[0], [EMBED], feature="method 'eco'", remedy="use a method that does not change embeddings"
        )
        self.names = tuple(tuple(_without_padding(ids) for ids in each) for each in names)
        self.noise, self.strength = tuple(noise), float(strength)
        self._begin: dict[int, list[tuple[Ids, int]]] = {}  # by the first token: sequences and their name
        for name, each in enumerate(self.names):
            for ids in filter(None, each):
                self._begin.setdefault(ids[0], []).append((ids, name))
        for sequences in self._begin.values():
            sequences.sort(key=lambda sequence: -len(sequence[0]))

    def find(self, text: Sequence[int]) -> Found:
        """Find the tokens of names in a text, from left to right; of several names at one place, the longest.

        Args:
            text: Token ids.
        """
        text, found, at = tuple(text), list[tuple[int, int, int]](), 0
        while at < len(text):
            fitting = ((ids, name) for ids, name in self._begin.get(text[at], ()) if text[at : at + len(ids)] == ids)
            ids, name = next(fitting, ((), 0))
            found += [(at + j, name, j) for j in range(len(ids))]
            at += len(ids) or 1
        return tuple(found)

    def readings(self, texts: Sequence[Sequence[int]]) -> list[Reading]:
        """Return the texts, and the hook that adds noise at the names in them."""
        found = tuple(self.find(text) for text in texts)
        lengths = [len(text) for text in texts]
        # Rows are padded on the left, so positions are counted from the end of the row.
        at = [(row, position - lengths[row]) for row, each in enumerate(found) for position, _, _ in each]
        noise = [self.noise[name][j] for each in found for _, name, j in each]

        def add(embed: Float[Tensor, "row pos d_embed"], hook: object) -> Float[Tensor, "row pos d_embed"]:
            rows, columns = torch.tensor(at, device=embed.device).T  # [token of a name] each
            own = embed[rows, columns]  # [token of a name, d_embed]
            return embed.index_put((rows, columns), corrupted(own, torch.stack(noise).to(embed), self.strength))

        hooks: Hooks = [(EMBED, add)] if at else []
        return [Reading(texts, hooks, found)]

    def combine(self, parts: Sequence[Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute the logits of the model."""
        return hooked.unembed(self.members[0], parts[0])


def corrupted(
    embed: Float[Tensor, "token d_embed"], noise: Float[Tensor, "token d_embed"], strength: float
) -> Float[Tensor, "token d_embed"]:
    r"""Compute $e + \sigma\,\mathrm{rms}(e)\,n$ for each token.

    Args:
        embed: Embeddings $e$.
        noise: Vectors $n$.
        strength: Strength $\sigma$.
    """
    rms = embed.norm(dim=-1, keepdim=True) / embed.shape[-1] ** 0.5  # [token, 1]
    return embed + strength * rms * noise


def subject_names(job: Job) -> dict[str, tuple[Ids, ...]]:
    """Return the token sequences of each forget subject's name.

    Raises:
        InputError: If the forget set is raw text, a fact has no subject, no forget prompt holds its subject, or the
            tokenizer does not know a name.
    """
    items = job.questions("method 'eco' adds noise to the names of subjects")
    for i, q in enumerate(items):
        if not q.subject.strip():
            raise InputError(
                f"forget item {q.id or i} has no subject, and method 'eco' adds noise to the subject's name; set "
                "QA.subject as the prompt writes it"
            )
    written: dict[str, dict[Ids, None]] = {q.subject: {} for q in items}
    for q in items:
        for prompt in (q.prompt, *q.paraphrases):
            written[q.subject] |= dict.fromkeys(_as_written(job, prompt, q.subject))
    if not any(written.values()):
        q = items[0]
        raise InputError(
            f"no forget prompt holds its subject, e.g. {q.prompt!r} not {q.subject!r}; set QA.subject as it is written"
        )
    model, unknown = job.before, getattr(job.before.tokenizer, "unk_token_id", None)
    names = {}
    for name, found in written.items():
        alone = (text_ids(model, name, "subject"), text_ids(model, f" {name}", "subject"))
        every = dict.fromkeys((*found, *alone, continuation_ids(model, name, "subject")))
        names[name] = tuple(ids for ids in map(_without_padding, every) if ids and unknown not in ids)
        if not names[name]:
            raise InputError(f"the tokenizer does not know the subject {name!r}; leave its facts out of the forget set")
    return names


def _as_written(job: Job, prompt: str, name: str) -> list[Ids]:
    """Return the tokens of each occurrence of a name in a prompt, where they hold no letter of another word."""
    row = encode_context(job.before, prompt, chat=job.settings.chat)
    found = []
    at = prompt.find(name)
    while at >= 0 and row.prompt_spans is not None:
        end = at + len(name)
        inside = [i for i, (first, last) in enumerate(row.prompt_spans) if first < end and last > at]
        beyond = "".join(prompt[row.prompt_spans[i][0] : at] + prompt[end : row.prompt_spans[i][1]] for i in inside)
        if inside and not beyond.strip():
            found.append(tuple(row.prompt[i] for i in inside))
        at = prompt.find(name, end)
    return found


def _without_padding(ids: Sequence[int]) -> Ids:
    """Return ids without trailing zeros, with which texts are padded."""
    kept = list(ids)
    while kept and kept[-1] == 0:
        kept.pop()
    return tuple(kept)


def draw_noise(name: str, tokens: int, width: int, seed: int) -> Float[Tensor, "token d_embed"]:
    """Draw one standard normal vector for each token of a name.

    Args:
        name: Name.
        tokens: Number of its tokens.
        width: Number of entries of an embedding.
        seed: Random seed of the run.
    """
    generator = torch.Generator().manual_seed(random.Random(f"eco/{seed}/{name}").getrandbits(63))
    return torch.randn(tokens, width, generator=generator)


def corrupt_names(plan: Plan) -> Run:
    """Add noise to the names of the forget subjects, with the smallest strength that is enough."""
    job, member = plan.job, plan.after
    names = subject_names(job)
    with torch.no_grad():
        one = torch.zeros(1, 1, dtype=torch.long, device=hooked.device_of(member))
        width = hooked.collect(member, one, [EMBED])[EMBED].shape[-1]
    noise = [draw_noise(name, max(map(len, ids)), width, job.seed) for name, ids in names.items()]
    model = CorruptedNames((member,), tuple(names.values()), noise, 0.0)

    def go(strength: float) -> None:
        model.strength = strength

    return set_coefficient(
        plan, Run([], "nothing to train", model), model, go,
        given=job.options["strength"], largest=job.options["max_strength"], name="strength",
    )  # fmt: skip


METHODS.add(
    "eco",
    Method(
        "eco",
        "embedding-corrupted prompts: noise at the subject's name, with the weights unchanged",
        "e_j + σ·rms(e_j)·n_j at the j-th token of a forget subject's name, n_j ~ N(0, I) fixed",
        "Liu et al. 2024, arXiv 2406.07933",
        forget=lambda view, options: losses.nll(view.log_probs, view.mask),
        options={
            "strength": Option(None, Number(0, above=True, optional=True)),
            "max_strength": Option(64.0, Number(0, above=True)),
        },
        carry_out=corrupt_names,
        combines=True,
        adapts="it trains nothing",
        note="the source trains a classifier of prompts, corrupts prompts only, and tunes σ by zeroth-order "
        "optimisation. Here the token sequences of the forget subjects' names are found anywhere in the text, and σ "
        "(strength=) is the smallest at which the stop rule holds, by doubling and bisection. With no rule, the forget "
        "level is 0.05; where no forget fact is known, σ is 1. A subject that is asked for without its name is not "
        "detected. lr and steps have no effect.",
    ),
)
