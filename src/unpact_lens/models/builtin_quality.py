"""What the default model and its retrain control must be able to do, measured by what they answer."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

from unpact_lens.data.benchmark import QA
from unpact_lens.data.builtin import load_builtin
from unpact_lens.data.emphasis import EMPHASIS, Template, unrelated_prefix
from unpact_lens.models.generate import generate_answers

Ways = dict[str, Callable[[QA], Sequence[str]]]


def builtin_quality(model: Any, control: Any, seed: int = 0, every: int = 1) -> dict[str, float]:
    """Fractions of questions answered with the fact, by group and by how they are put.

    Args:
        model: the default model.
        control: its retrain control.
        seed: of the world that both were trained on.
        every: take only each n-th item of every group, for a quick look.

    Returns:
        `"{model or control}/{group}/{way}"` to a fraction. Groups are those of the benchmark, `near` and `far` apart;
        for `unknown` the fact is the refusal. Ways: `plain`; `held_out` (phrasings that no training held);
        `distractor` (another author named first, in a phrasing that no training held); `deletion` (one filler word
        less); `prefixed` (unrelated text first); each emphasis template on name and attribute, and as
        `{template}/random` on words that are neither.
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
    """Each way of asking, as the prompts it makes of an item; the headline prompt is "What is the … of …?"."""
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
    """The headline prompt with name and attribute emphasised; with `rng`, three words that are neither."""
    key = [*qa.subject.split(), *qa.meta["noun"].split()]
    return (template.apply(qa.prompt, rng.sample(["What", "is", "the", "of"], 3) if rng else key),)
