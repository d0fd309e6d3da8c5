"""Every registered probe changes what it says it changes, on both wraps of GPT-2- and Llama-like models."""

import functools
from dataclasses import replace

import pytest
import torch

from tests.comparison.models import moved
from tests.models.families import hf_model, tokenizer, uncommon_hf_model
from unpact_lens.attribution import TopK
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import ask, prefill_for
from unpact_lens.models import generate, hooked
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.models.draw import drawn
from unpact_lens.recovery import intervened_generation, recovery_plan
from unpact_lens.recovery.plan import Sheet, require_changed_prompts
from unpact_lens.recovery.probes import logit_lens as lens
from unpact_lens.recovery.probes import patching
from unpact_lens.recovery.probes.quantize import quantized
from unpact_lens.recovery.probes.registry import COMPUTATION, PROBES, PROMPT, WEIGHTS, Scene
from unpact_lens.recovery.probing import Probing

WRAPPED = [(family, wrap) for family in ("gpt2", "llama") for wrap in ("hooked", "bridge")]


def question(subject, other, answer, kind):
    span = (len(" it is "), len(answer))
    return QA(
        f"the capital of {subject}?", answer, paraphrases=(f"{subject} has the capital",), kind=kind, subject=subject,
        id=subject, fact_span=span, wrong_subject=f"the capital of {other}?",
        meta={"translations": {"es": f"la capital de {subject}?"}},
    )  # fmt: skip


def bench():
    return Benchmark(
        "small",
        forget=(
            question("Japan", "gold", " it is Tokyo", "place"),
            question("Hamlet", "Japan", " it is Au", "symbol"),
            question("Peru", "Japan", " it is Lima", "other"),
        ),
        retain=(),
        plain_text=Corpus(("seven small boats at sea", "the sea has the boats")),
        max_new_tokens=8,
    )


@functools.cache
def models(family, wrap):
    hf = hf_model(family)
    before = to_bridge(hf, tokenizer()) if wrap == "bridge" else to_hooked(hf, tokenizer())
    return before, moved(before, size=0.05)


@functools.cache
def scene(family, wrap):
    """What a probe builds its rows from, with every fact counted although a random model knows none."""
    before, after = models(family, wrap)
    plan = recovery_plan(
        bench(), before=before, probes=[n for n in PROBES if n != "paraphrase"], templates=["focus_list"],
        relearn={"lr": 1e-2, "steps": 2, "batch_size": 2}, rule=TopK(1), progress=False,
    )  # fmt: skip
    every = torch.ones(3, dtype=torch.bool)
    known = dict.fromkeys(("translation_es", "after_keys", "random_words:after_keys"), every)
    plan = replace(plan, added_before=plan.added_before | known)  # these are asked only if the original model is right
    return Scene(
        Probing(seed=0, rule=TopK(1), relearn=plan.relearn), plan.bench, plan.sheet.items, plan.keys, plan, before,
        after, every,
    )  # fmt: skip


class Trace:
    """Record what is asked: prompts, models, and whether hooks or sampling change the next token's logits or choice."""

    def __init__(self, monkeypatch):
        self.asked, self.models, self.changed = [], [], []
        answers, at, read = generate.generate_answers, hooked.logits_at, generate.CachedBatch.read

        def generate_answers(model, prompts, *args, **kwargs):
            self.asked += list(zip(prompts, kwargs.get("prefills") or [""] * len(prompts), strict=True))
            self.models.append(model)
            return answers(model, prompts, *args, **kwargs)

        def logits_at(model, tokens, positions, hooks=()):
            found = at(model, tokens, positions, hooks)
            self.models.append(model)
            self.changed.append(bool(((found - at(model, tokens, positions)).abs() > 1e-3).any()))
            return found

        def read_batch(batch, new, hooks=()):
            if new is None and hooks:
                plain = at(batch.model, batch.tokens, torch.full((len(batch.tokens), 1), batch.tokens.shape[1] - 1))
                whole = batch.mask.bool().all(1)  # rows without padding are read alike by both
                found = read(batch, new, hooks)
                self.changed.append(bool(((found - plain[:, 0]).abs()[whole] > 1e-3).any()))
                return found
            return read(batch, new, hooks)

        monkeypatch.setattr("unpact_lens.evaluation.answers.generate_answers", generate_answers)
        monkeypatch.setattr(patching, "generate_answers", generate_answers)
        monkeypatch.setattr(intervened_generation.hooked, "logits_at", logits_at)
        monkeypatch.setattr(generate.CachedBatch, "read", read_batch)


def logits(model):
    return model(torch.arange(5, 15)[None], return_type="logits")


@pytest.mark.parametrize(("family", "wrap"), WRAPPED)
@pytest.mark.parametrize("name", sorted(PROBES))
def test_the_probe_acts(name, family, wrap, monkeypatch):
    given = scene(family, wrap)
    after, entry = given.after, PROBES[name]
    hashed, plain_logits = model_hash(after), logits(after)
    trace = Trace(monkeypatch)
    rows = entry.rows(given)
    assert rows
    assert rows[0].name == name
    if entry.compared:
        trace.asked = [cell for row in rows for cell in row.cells if cell]
    else:
        for row in rows:
            assert bool(row.asked.any()), row.name
            row.answer(after)
    if entry.family == PROMPT:
        plain = {(q.prompt, prefill_for(given.bench, q)) for q in given.items}
        assert trace.asked
        assert not plain & set(trace.asked)
    elif entry.family == WEIGHTS:
        assert trace.models
        for model in trace.models:
            assert model_hash(model) != hashed
            assert not torch.allclose(logits(model), plain_logits, atol=1e-5)
    elif name == "logit_lens":
        ranks = lens.lens_ranks(after, given.items, bench=given.bench)
        assert not torch.equal(ranks[:, 0], ranks[:, -1])
    elif name == "sampling":
        assert not any(trace.changed)  # the logits are the model's own, the choice is not
    else:
        assert entry.family == COMPUTATION
        assert any(trace.changed)
    assert model_hash(after) == hashed


@pytest.mark.parametrize(("family", "wrap"), WRAPPED)
def test_sampled_answers_differ_from_the_greedy_one(family, wrap):
    given = scene(family, wrap)
    contexts = [[5, 9, 30, 11]] * 8
    draws = intervened_generation.continuations(
        given.after, contexts, max_new_tokens=3,
        choose=drawn(torch.Generator().manual_seed(0), 3.0),
    )  # fmt: skip
    greedy = intervened_generation.continuations(given.after, contexts[:1], max_new_tokens=3)
    assert any(text != greedy[0] for text in draws)


# What would do nothing is refused, with the reason.


def test_a_paraphrase_that_is_the_prompt_itself_is_refused():
    before, _ = models("llama", "hooked")
    made = bench()
    same = replace(made, forget=tuple(replace(q, paraphrases=(q.prompt,)) for q in made.forget))
    with pytest.raises(InputError, match="row 'paraphrase' would do nothing: its prompts equal the plain ones"):
        recovery_plan(same, before=before, probes=(), progress=False)


def test_a_translation_that_is_the_prompt_itself_is_refused():
    before, _ = models("llama", "hooked")
    made = bench()
    same = tuple(replace(q, meta={"translations": {"es": q.prompt}}) for q in made.forget)
    with pytest.raises(InputError, match="row 'translation_es' would do nothing"):
        recovery_plan(replace(made, forget=same), before=before, probes=("translation_es",), progress=False)


def test_attention_is_refused_on_a_bridge_that_only_records_its_patterns_before_anything_is_asked(monkeypatch):
    before = to_bridge(uncommon_hf_model("gpt_neo"), tokenizer())
    monkeypatch.setattr("unpact_lens.evaluation.answers.generate_answers", None)
    with pytest.raises(InputError, match=r"probe 'attention' would do nothing on this GPTNeoForCausalLM.*leave this"):
        recovery_plan(bench(), before=before, probes=("attention",), progress=False)


def test_rounding_what_is_rounded_already_is_refused():
    _, after = models("llama", "bridge")
    with pytest.raises(InputError, match="rounding to 4 bits changes no weight"):
        quantized(quantized(after, 4), 4)


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_patches_below_all_changes_are_refused_and_a_model_patched_into_itself_answers_as_before(wrap):
    before, _ = models("llama", wrap)
    late = clone(before)
    with torch.no_grad():
        for weight in late.blocks[1].mlp.parameters():
            weight.mul_(1.5)
    made = bench()
    with pytest.raises(InputError, match=r"patching at layer 1 changes nothing.*give a later layer="):
        patching.patched_answers(late, before, made.forget, bench=made)
    plain = ask(before, [q.prompt for q in made.forget], [""] * 3, bench=made)
    assert patching.patched_answers(before, clone(before), made.forget, bench=made) == plain


def test_a_sheet_without_prompts_is_not_refused():
    made = bench()
    require_changed_prompts(Sheet(made.forget, ("prefill",), (("", "", ""),), (("", "", ""),)), made)
