"""The loop equals a plain one: on hooked models, on bridges, with tied embeddings, with any micro-batch size."""

import copy

import pytest
import torch
from torch.nn.functional import softplus

from tests.models import families
from tests.models.families import tokenizer
from tests.unlearning.conftest import untrained, world
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.trainable import trainable

STEPS = 4
FORGET = [
    QA("the capital", " of Japan is Tokyo", id="a"),
    QA("who wrote", " Hamlet?", id="b"),
    QA("gold", " Au", id="c"),
]
RETAIN = [QA("seven small", " boats", id="d"), QA("at sea", " boats at", id="e"), QA("the symbol", " is the", id="f")]
SETTINGS = {"lr": 1e-3, "steps": STEPS, "batch_size": 2, "weight_decay": 0.1, "clip": 0.5, "end_token": True,
            "progress": False}  # fmt: skip


def hf_model(family, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # Hugging Face draws its initial weights from the global generator
        return families.hf_model(family, **changes)


def naive_hf(hf, method, forget_order, retain_order, settings):
    """The same objective on a plain Hugging Face model: whole sequences, the reference run at each step."""
    before, hf = copy.deepcopy(hf), copy.deepcopy(hf)
    tok = tokenizer()
    optimiser = torch.optim.AdamW(hf.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])

    def batch(items, index):
        pairs = [
            (tok(items[i].prompt)["input_ids"], [*tok(items[i].answer)["input_ids"], tok.eos_token_id]) for i in index
        ]
        width = max(len(p) + len(a) for p, a in pairs)
        ids = torch.tensor([p + a + [0] * (width - len(p) - len(a)) for p, a in pairs])
        on = torch.tensor([[len(p) <= t < len(p) + len(a) for t in range(width)] for p, a in pairs])
        return ids, on[:, 1:]

    def log_p(model, ids):
        return model(ids).logits[:, :-1].log_softmax(-1)

    def picked(log_p, ids, on):
        return torch.where(on, log_p.gather(-1, ids[:, 1:, None])[..., 0], 0.0)

    mean_length = sum(len(tok(q.answer)["input_ids"]) + 1 for q in FORGET) / len(FORGET)
    for f_index, r_index in zip(forget_order.tolist(), retain_order.tolist(), strict=True):
        ids, on = batch(FORGET, f_index)
        values = picked(log_p(hf, ids), ids, on)
        if method.startswith("ga"):
            loss = values.sum() / on.sum()
        else:
            with torch.no_grad():
                reference = picked(log_p(before, ids), ids, on)
            loss = (2 / 0.1) * softplus(0.1 * (values.sum(-1) - reference.sum(-1))).mean() / mean_length
        ids, on = batch(RETAIN, r_index)
        p = log_p(hf, ids)
        if method.endswith("gdr"):
            loss = loss - picked(p, ids, on).sum() / on.sum()
        if method.endswith("klr"):
            with torch.no_grad():
                q = log_p(before, ids)
            loss = loss + ((q.exp() * (q - p)).sum(-1) * on).sum() / on.sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hf.parameters(), settings["clip"])
        optimiser.step()
    return hf


def largest_difference(ours, expected):
    theirs = expected.state_dict()
    return max(float((p - theirs[n]).abs().max()) for n, p in ours.state_dict().items() if p.is_floating_point())


@pytest.mark.parametrize(
    ("family", "tied", "dtype", "tolerance"),
    [
        ("gpt2", True, torch.float64, 1e-10),
        ("gpt2", False, torch.float64, 1e-10),
        ("llama", True, torch.float32, 3e-5),  # HF computes norms and rotations in fp32 whatever the weights are
        ("pythia", False, torch.float64, 1e-5),
    ],
)
@pytest.mark.parametrize("method", ["ga", "ga_klr", "npo_gdr"])
def test_training_equals_a_plain_hf_loop(family, tied, dtype, tolerance, method):
    hf = hf_model(family, tie_word_embeddings=tied).to(dtype)
    model = to_hooked(hf, tokenizer(), dtype=dtype)
    u = unlearn(model, FORGET, RETAIN, method=method, **SETTINGS)
    history = u.history
    order = history.forget_order if history.retain_order is None else history.retain_order
    expected = to_hooked(naive_hf(hf, method, history.forget_order, order, SETTINGS), tokenizer(), dtype=dtype)
    moved = largest_difference(u.model, model)
    assert moved > 1e-3  # otherwise the tolerance below would be trivial
    assert largest_difference(u.model, expected) < tolerance
    if tied:
        assert torch.equal(u.model.unembed.W_U, u.model.embed.W_E.T)
        assert u.model.tied_embeddings


def test_tied_weights_part_without_the_tied_flag():
    """The proof that the tying above does something: without the flag, the two copies part."""
    hf = hf_model("gpt2", tie_word_embeddings=True).double()
    model = to_hooked(hf, tokenizer(), dtype=torch.float64)
    model.tied_embeddings = False
    u = unlearn(model, FORGET, method="ga", **SETTINGS)
    assert float((u.model.unembed.W_U - u.model.embed.W_E.T).abs().max()) > 1e-4


# A key bias has no effect, so its gradient is rounding noise, which Adam amplifies in fp32. GPT-2 is compared in fp64.
@pytest.mark.parametrize(("family", "dtype"), [("gpt2", torch.float64), ("llama", torch.float32)])
def test_bridge_and_hooked_transformer_train_to_the_same_weights(family, dtype):
    hf = hf_model(family, tie_word_embeddings=True).to(dtype)
    bridge = unlearn(to_bridge(hf, tokenizer(), dtype=dtype), FORGET, RETAIN, method="npo_gdr", **SETTINGS)
    hooked = unlearn(to_hooked(hf, tokenizer(), dtype=dtype), FORGET, RETAIN, method="npo_gdr", **SETTINGS)
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(bridge.model(tokens), hooked.model(tokens), atol=1e-4, rtol=0)
    expected = naive_hf(hf, "npo_gdr", hooked.history.forget_order, hooked.history.retain_order, SETTINGS)
    assert largest_difference(bridge.model, to_bridge(expected, tokenizer(), dtype=dtype)) < 1e-5


@pytest.mark.parametrize("method", ["ga_gdr", "npo_gdr", "npo_klr"])
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_gradient_accumulation_equals_one_big_batch(style, method, micro_batch):
    model = untrained(style)
    forget, retain = world()
    forget = [*forget[:3], QA("where was ann born", " the town was the town of the town .", id="long")]
    settings = {**SETTINGS, "batch_size": 4}
    whole = unlearn(model, forget, retain, method=method, **settings)
    parts = unlearn(model, forget, retain, method=method, micro_batch=micro_batch, **settings)
    assert largest_difference(whole.model, model) > 1e-3
    assert largest_difference(parts.model, whole.model) < 1e-6
    for a, b in zip(whole.history.rows, parts.history.rows, strict=True):
        assert a == pytest.approx(b, abs=1e-9)


def test_input_is_untouched_and_equal_seeds_give_equal_weights():
    model = untrained()
    forget, retain = world()
    before = model_hash(model)
    runs = [unlearn(model, forget, retain, method="ga_gdr", seed=s, **SETTINGS) for s in (1, 1, 2)]
    assert model_hash(model) == before == runs[0].hash_before
    assert all(p.grad is None for p in model.parameters())
    assert model_hash(runs[0].model) == model_hash(runs[1].model) != model_hash(runs[2].model)
    assert runs[0] == runs[1]
    assert not torch.equal(runs[0].history.forget_order, runs[2].history.forget_order)


def test_every_pass_reads_every_example_once():
    model = untrained()
    forget, _ = world()
    u = unlearn(model, forget, method="ga", batch_size=3, epochs=2, lr=1e-9, progress=False)
    order = u.history.forget_order
    assert order.shape == (4, 3)
    assert sorted(order[:2].flatten().tolist()) == sorted(order[2:].flatten().tolist()) == list(range(6))


def test_only_chosen_modules_change():
    model = untrained("llama")
    forget, _ = world()
    u = unlearn(model, forget, method="ga", modules="blocks.1.mlp", **SETTINGS)
    after = dict(u.model.named_parameters())
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, after[n])}
    assert changed == {"blocks.1.mlp.W_in", "blocks.1.mlp.W_gate", "blocks.1.mlp.W_out", "blocks.1.mlp.b_in",
                       "blocks.1.mlp.b_out"}  # fmt: skip
    assert all(p.requires_grad for p in u.model.parameters())


def test_frozen_parameters_stay_as_they_are():
    model = untrained()
    model.unembed.b_U.requires_grad_(False)
    forget, _ = world()
    u = unlearn(model, forget, method="ga", **SETTINGS)
    assert torch.equal(u.model.unembed.b_U, model.unembed.b_U)
    assert not u.model.unembed.b_U.requires_grad
    assert not torch.equal(u.model.embed.W_E, model.embed.W_E)


@pytest.mark.parametrize(("schedule", "expected"), [
    ("constant", [0.5, 1, 1, 1, 1, 1]),
    ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
    ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447]),
])  # fmt: skip
def test_the_learning_rate_follows_its_schedule(schedule, expected):
    model = untrained()
    u = unlearn(model, world()[0], method="ga", steps=6, warmup=2, schedule=schedule, lr=1e-6, progress=False)
    assert [r["lr"] * 1e6 for r in u.history.rows] == pytest.approx(expected, abs=1e-6)


def test_paraphrases_are_trained_on_when_asked_for():
    model = untrained()
    forget, _ = world()
    u = unlearn(model, forget, method="ga", phrasings="all", batch_size=100, steps=1, progress=False)
    assert u.history.forget_order.shape == (1, 12)


def test_diverged_training_stops_with_the_last_good_weights():
    model = untrained("gpt2", dtype=torch.float32)
    forget, _ = world()
    with pytest.warns(RuntimeWarning, match=r"the forget loss was (nan|-?inf) after step \d+; .* lower the lr"):
        u = unlearn(model, forget, method="ga", lr=1e30, steps=5, progress=False)
    assert u.stopped == "the forget loss was nan after step 1; the weights of step 0 are kept"
    assert model_hash(u.model) == model_hash(model)
    assert len(u.history.rows) == 1


def test_model_with_nan_weights_is_refused():
    model = untrained()
    model.embed.W_E.data.fill_(torch.nan)
    with pytest.raises(InputError, match="holds NaN or infinity; load a sound checkpoint"):
        unlearn(model, world()[0], method="ga", **SETTINGS)


def test_patterns_that_match_nothing_are_named():
    with pytest.raises(InputError, match=r"modules pattern 'blocks.9.mlp' matches no parameter; did you mean"):
        trainable(untrained(), ["blocks.9.mlp"])


def test_training_does_not_change_its_input():
    model = untrained()
    copied = clone(model)
    unlearn(copied, world()[0], method="ga", **SETTINGS)
    assert model_hash(copied) == model_hash(model)


def test_the_check_after_an_update_uses_micro_batches_and_only_runs_where_the_model_is_scored(monkeypatch):
    from unpact_lens.unlearning import trainer

    sizes, real = [], trainer.View

    def counted(model, data, index):
        if not torch.is_grad_enabled():
            sizes.append(len(index))
        return real(model, data, index)

    monkeypatch.setattr(trainer, "View", counted)
    given = {**SETTINGS, "batch_size": 3, "micro_batch": 1, "steps": 4, "check_every": 2}
    plain = unlearn(untrained(), FORGET, method="ga", **given)
    assert sizes == []  # nothing is scored without a stop rule
    unlearn(untrained(), FORGET, method="ga", track=FORGET[:1], track_every=1, **given)
    assert sizes == []
    ruled = unlearn(untrained(), FORGET, method="ga", stop_at=0.0, forget_score=lambda m: 1.0, **given)
    assert sizes == [1] * 6  # two checks of three micro-batches
    assert model_hash(ruled.model) == model_hash(plain.model)
