"""Every method proves that it acted, and a result says loudly what went wrong."""

import warnings

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained, world
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash, named_weights
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.load import load_model
from unpact_lens.models.tokens import encode
from unpact_lens.results import load
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import METHODS, StopRule, trainer, unlearn
from unpact_lens.unlearning.ensembles import CombinedModel

WRAPS = [(wrap, family) for wrap in ("hooked", "bridge") for family in ("gpt2", "llama")]
ADAPTERS = tuple(f"lora_{name}" for name in METHODS if not name.startswith(("o3", "lora_")))
REFUSED = {
    "lora_sparsity_aware": "cannot train low-rank adapters: it prunes",
    "lora_whp_inference": "cannot train low-rank adapters: it trains nothing",
    "lora_eco": "cannot train low-rank adapters: it trains nothing",
    "lora_in_context": "cannot train low-rank adapters: it trains nothing",
    "lora_memit": "cannot train low-rank adapters: it edits one matrix in closed form",
    **{
        name: "cannot train low-rank adapters: "
        for name in ADAPTERS
        if name.startswith(("lora_npo_null", "lora_npo_ewc", "lora_npo_local", "lora_npo_small", "lora_sam_npo"))
    },
}
"""Methods that refuse before any work, and why."""
FORGET = [
    QA("the capital of Japan is", " Tokyo", perturbed=(" Paris",), kind="place", id="a", subject="Japan"),
    QA("who wrote Hamlet?", " Shakespeare did", perturbed=(" Goethe did",), kind="entity", id="b", subject="Hamlet"),
]
RETAIN = [QA("seven small", " boats at sea", id="c", group="far"), QA("gold is", " the symbol Au", id="d", group="far")]


@pytest.fixture(scope="module", params=WRAPS, ids=lambda p: "-".join(p))
def wrapped(request):
    wrap, family = request.param
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return load_model(hf_model(family), wrap=wrap, tokenizer=tokenizer())


def short(model, method):
    """Two steps of a method."""
    own = {"small": model} if "offset" in method else {}
    if method == "in_context":
        own = {"forgets": 1, "retains": 1, "max_new_tokens": 8}  # the context has 96 tokens
    if method.startswith(("simnpo", "lora_simnpo")):
        own = {"beta": 0.1}  # with 4.5, the loss of answers that a random model does not know has no gradient left
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return unlearn(model, FORGET, RETAIN, method=method, steps=2, batch_size=2, lr=1e-3, progress=False, **own)


@pytest.mark.parametrize("method", [*METHODS, *ADAPTERS])
def test_every_method_acts_on_every_wrap_or_says_early_why_not(wrapped, method, monkeypatch):
    if method in REFUSED:
        monkeypatch.setattr(trainer, "train", lambda *given: pytest.fail("training started"))
        with pytest.raises(InputError, match=REFUSED[method]):
            short(wrapped, method)
        return
    before = model_hash(wrapped)
    u = short(wrapped, method)
    assert model_hash(wrapped) == before
    rows = [encode(wrapped, q.prompt, q.answer) for q in FORGET]
    old, new = (torch.cat(score_rows(m, rows)) for m in (wrapped, u.model))
    assert float((old - new).abs().max()) > 1e-6
    if method.endswith("sparsity_aware"):
        gone = [w for n, w in named_weights(u.model).items() if "mlp" in n and w.ndim >= 2]
        assert gone
        assert all(float((w == 0).float().mean()) > 0.25 for w in gone)
    if not isinstance(u.model, CombinedModel):
        assert any(not torch.equal(a, b) for a, b in zip(wrapped.parameters(), u.model.parameters(), strict=True))


@pytest.mark.hooked
def test_a_run_that_changes_nothing_is_refused(learned, facts):
    """lr=1e-30 moves no fp32 weight, and gamma=0 leaves no gradient."""
    for given in ({"lr": 1e-30}, {"gamma": 0.0}):
        with pytest.raises(InputError, match=r"method 'ga' changed nothing: after 2 steps .* raise lr or steps"):
            unlearn(learned, facts[0], method="ga", steps=2, progress=False, modules="blocks.0.mlp.W_in", **given)


def test_a_model_that_had_forgotten_before_is_said_to_be_unchanged(learned, facts):
    u = unlearn(learned, facts[0], method="ga", stop_at=0.5, forget_score=lambda m: 0.1, progress=False)
    assert u.warnings == ("nothing was changed: the model is the original one",)
    assert u.forgotten == 0.9


def share_known(model, items):
    answers = generate_answers(model, [q.prompt for q in items], max_new_tokens=24)
    return sum(q.fact in a.split() for a, q in zip(answers, items, strict=True)) / len(items)


def test_f_is_measured_without_a_stop_rule_and_f_of_0_is_said_loudly(learned, facts, tmp_path):
    u = unlearn(learned, facts[0], method="ga", lr=1e-7, steps=2, progress=False)
    assert u.forgotten == 1 - share_known(u.model, facts[0]) == 0
    assert u.forget_score is None
    assert u.warnings == ("F = 0.00: almost nothing is forgotten; raise lr or steps, or use tune()",)
    assert repr(u).startswith("Unlearned(ga, F = 0.00, 2 steps: WARNING: F = 0.00: almost nothing is forgotten")
    assert len(repr(u)) <= 100
    assert "\n" not in repr(u)
    assert load(u.save(tmp_path / "run")) == u


def test_a_run_that_forgets_has_no_warning(learned, facts):
    u = unlearn(learned, *facts, method="npo_gdr", lr=3e-3, steps=30, progress=False)
    assert u.forgotten == 1 - share_known(u.model, facts[0])
    assert u.forgotten > 0.9
    assert u.warnings == ()
    assert repr(u) == f"Unlearned(npo_gdr, F = {u.forgotten:.2f}, 30 steps: step budget used up)"


def test_a_missed_level_is_said_with_both_numbers(learned, facts):
    u = unlearn(learned, facts[0], method="ga", stop_at=StopRule(forget=0.2), lr=1e-7, steps=2, progress=False)
    assert u.warnings == ("F = 0.00 misses the level asked for, 0.80; raise lr or steps",)


def test_divergence_is_said_whether_or_not_weights_were_restored(facts):
    model = untrained("gpt2", dtype=torch.float32)
    with pytest.warns(RuntimeWarning):
        restored = unlearn(model, facts[0], method="ga", lr=1e30, steps=5, progress=False)
    assert restored.warnings[0].startswith("training diverged: the forget loss was nan after step 1; ")
    assert restored.warnings[1] == "nothing was changed: the model is the original one"
    broken = unlearn(model, facts[0], method="ga", lr=1e30, steps=1, progress=False)
    assert broken.warnings == ("the model is broken: its predictions are not finite; lower the lr",)
    assert broken.forgotten is None


def test_facts_that_the_original_model_does_not_know_give_no_f():
    unknown = [QA(q.prompt, " xanadu") for q in world()[0]]
    u = unlearn(untrained(), unknown, method="ga", steps=1, progress=False)
    assert u.forgotten is None
    assert u.warnings[0].startswith("F is not measured: none of the 6 facts is answered right before unlearning")


def test_raw_text_has_no_f_and_no_warning():
    u = unlearn(untrained(), Corpus(("ann was born in rome . " * 3,)), method="ga", steps=1, progress=False)
    assert (u.forgotten, u.warnings) == (None, ())


def test_a_benchmark_of_corpora_is_unlearned_from_its_corpora(learned, facts):
    forget, retain = facts
    told, kept = Corpus(("ann was born . the town was rome .",)), Corpus(("bob was born . the town was lima .",) * 2)
    bench = Benchmark("muse-like", tuple(forget), tuple(retain), forget_corpus=told, retain_corpus=kept,
                      max_new_tokens=8, unlearn_from="corpus")  # fmt: skip
    given = {"method": "ga_gdr", "lr": 1e-3, "steps": 3, "progress": False}
    ours, texts = unlearn(learned, bench, **given), unlearn(learned, told, kept, max_new_tokens=8, **given)
    assert model_hash(ours.model) == model_hash(texts.model)
    assert ours.forgotten == 1 - share_known(ours.model, forget)
    level = unlearn(learned, bench, stop_at=1.0, **given)
    assert level.stopped == "forget level reached"  # by the questions
    with pytest.raises(InputError, match="the forget set is raw text; give QA items"):
        unlearn(learned, bench, method="dpo", progress=False)
    bare = Benchmark("wmdp-like", tuple(forget), (), unlearn_from="corpus")
    with pytest.raises(
        InputError, match=r"'wmdp-like' is unlearned from its corpus, which is not loaded; .*bench.forget"
    ):
        unlearn(learned, bare, **given)
    assert unlearn(learned, bare.forget, retain, **given).history.retain_order is not None


def test_a_method_without_steps_is_not_told_to_raise_its_steps(learned, facts):
    u = unlearn(learned, *facts, method="whp_inference", strength=1e-3, reinforce_steps=1, progress=False)
    assert u.warnings == (
        "F = 0.00: almost nothing is forgotten; change the hyperparameters of this method, or use tune()",
    )
