"""The logit lens and the tuned lens read each layer and end at the model's own output."""

import pytest
import torch

from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from unpact_lens.decomposition import decompose, lens_curves, train_tuned_lens
from unpact_lens.decomposition import lens as lens_module
from unpact_lens.errors import InputError
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2, 6]
TEXTS = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10], [11, 3, 5, 40, 2]]


def test_each_layer_is_normed_and_unembedded_and_the_last_equals_the_model(model64):
    curves = decompose(model64, PROMPT, ANSWER, by="layer")
    _, cache = model64.run_with_cache(torch.tensor([(PROMPT + ANSWER)[:-1]]))
    stream = [cache["resid_pre", 0], cache["resid_pre", 1], cache["resid_pre", 2], cache["resid_post", 2]]
    for layer, resid in enumerate(stream):
        logits = model64.unembed(model64.ln_final(resid))[0, len(PROMPT) - 1 :]
        log_probs = logits.log_softmax(-1)
        for k, y in enumerate(ANSWER):
            assert curves.logit[layer, k].item() == pytest.approx(logits[k, y].item(), abs=1e-10)
            assert curves.log_prob[layer, k].item() == pytest.approx(log_probs[k, y].item(), abs=1e-10)
            assert curves.rank[layer, k] == sorted(logits[k].tolist(), reverse=True).index(logits[k, y].item())
    assert curves.labels[0] == ("embed", "L0", "L1", "L2")
    torch.testing.assert_close(curves.total, decompose(model64, PROMPT, ANSWER).total, atol=1e-10, rtol=0)


def test_logits_are_before_the_soft_cap_and_probabilities_after():
    model = tiny("llama", output_logits_soft_cap=5.0)
    curves = lens_curves(model, PROMPT, ANSWER)
    log_probs = model(torch.tensor([PROMPT + ANSWER]))[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    torch.testing.assert_close(curves.log_prob[-1], log_probs[[0, 1, 2], ANSWER], atol=1e-10, rtol=0)
    torch.testing.assert_close(curves.total, decompose(model, PROMPT, ANSWER).total, atol=1e-10, rtol=0)


def test_a_bridge_ends_at_its_own_output(tmp_path):
    bridged, hf = bridge("llama", tmp_path)
    curves = lens_curves(bridged, PROMPT, ANSWER)
    log_probs = hf(torch.tensor([PROMPT + ANSWER])).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    torch.testing.assert_close(curves.log_prob[-1], log_probs[[0, 1, 2], ANSWER], atol=1e-4, rtol=0)


def test_the_tuned_lens_starts_as_the_logit_lens_and_learns():
    model = tiny("llama", dtype=torch.float32)
    untrained = train_tuned_lens(model, TEXTS, steps=1, lr=0.0)
    plain, tuned = lens_curves(model, PROMPT, ANSWER), lens_curves(model, PROMPT, ANSWER, lens=untrained)
    assert torch.equal(plain.logit, tuned.logit)
    assert tuned.lens == "tuned"
    trained = train_tuned_lens(model, TEXTS, steps=60)
    assert (trained.loss[-3:].mean(0) < 0.7 * trained.loss[:3].mean(0)).all()
    curves = lens_curves(model, PROMPT, ANSWER, lens=trained)
    assert torch.equal(curves.logit[-1], plain.logit[-1])
    assert not torch.equal(curves.logit[0], plain.logit[0])


def test_training_a_lens_is_reproducible_and_does_not_change_the_model(tmp_path):
    model = tiny("gpt2")
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    lens = train_tuned_lens(model, TEXTS, steps=4, seed=3)
    assert lens == train_tuned_lens(model, TEXTS, steps=4, seed=3)
    assert load(save(lens, tmp_path / "lens")) == lens
    assert all(torch.equal(v, kept[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.hooked
def test_a_cached_lens_is_loaded_for_the_same_model_texts_and_hyperparameters_only(tmp_path):
    model = tiny("gpt2")
    lens = train_tuned_lens(model, TEXTS, steps=3, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    written = (folder / "result.json").stat().st_mtime_ns
    assert train_tuned_lens(model, TEXTS, steps=3, cache=tmp_path) == lens
    assert (folder / "result.json").stat().st_mtime_ns == written
    for other in (
        {"model": tiny("gpt2", seed=1), "texts": TEXTS, "steps": 3},
        {"model": model, "texts": TEXTS[1:], "steps": 3},
        {"model": model, "texts": TEXTS, "steps": 4},
    ):
        assert train_tuned_lens(**other, cache=tmp_path) != lens
    assert len(list(tmp_path.iterdir())) == 4
    model.cfg.eps *= 2
    train_tuned_lens(model, TEXTS, steps=3, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5  # Equal weights in another configuration are another model.


def test_decompose_by_layer_takes_a_tuned_lens():
    model = tiny("llama")
    lens = train_tuned_lens(model, TEXTS, steps=3)
    assert decompose(model, PROMPT, ANSWER, by="layer", lens=lens) == lens_curves(model, PROMPT, ANSWER, lens=lens)
    with pytest.raises(InputError, match="a tuned lens reads layers; use by='layer' instead of by='head'"):
        decompose(model, PROMPT, ANSWER, by="head", lens=lens)


def test_many_rows_are_unembedded_in_parts(monkeypatch):
    model = tiny("gpt2")
    whole = lens_curves(model, PROMPT, ANSWER)
    monkeypatch.setattr(lens_module, "ROWS", 5)
    torch.testing.assert_close(lens_curves(model, PROMPT, ANSWER).log_prob, whole.log_prob, atol=1e-12, rtol=0)


def test_bad_input_is_named():
    model = tiny()
    with pytest.raises(InputError, match="no texts to train"):
        train_tuned_lens(model, [])
    with pytest.raises(InputError, match="steps=0"):
        train_tuned_lens(model, TEXTS, steps=0)
    with pytest.raises(InputError, match="a text of 401 tokens is longer than the model's context of 400"):
        train_tuned_lens(model, [[1] * 401])
    with pytest.raises(InputError, match="trained for another model"):
        lens_curves(tiny(seed=1), PROMPT, ANSWER, lens=train_tuned_lens(model, TEXTS, steps=1))
    with pytest.raises(InputError, match="by='layer' reads the answer alone"):
        decompose(model, PROMPT, ANSWER, by="layer", versus=[1, 2, 3])
