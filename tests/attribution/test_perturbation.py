"""Replacement, knockout and embedding methods equal independent implementations on the Hugging Face model."""

import pytest
import torch
from captum.attr import FeatureAblation

from tests.attribution.test_leave_one_out import by_hand, random_ids, with_bos
from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from unpact_lens.attribution import attribute
from unpact_lens.attribution.mean_embed import mean_embedding
from unpact_lens.attribution.replace import sample_tokens
from unpact_lens.errors import InputError
from unpact_lens.models.load import load_model

PROMPT, ANSWER = random_ids(9), [4, 2, 4]


def pair(family, wrap="hooked"):
    """A Hugging Face model and the same one hooked, in double precision."""
    hf = hf_model(family).double()
    return hf, load_model(hf, tokenizer=tokenizer(), wrap=wrap, dtype=torch.float64)


def read(logits, answer):
    """log p of the answer from the logits of one row, `[pos, d_vocab]`."""
    return logits[-len(answer) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]


def test_replacement_equals_brute_force(model64):
    a = attribute(model64, PROMPT, ANSWER, method="replace", token=7)
    whole = by_hand(model64, PROMPT, ANSWER)
    for i in range(len(PROMPT)):
        changed = by_hand(model64, [*PROMPT[:i], 7, *PROMPT[i + 1 :]], ANSWER)
        torch.testing.assert_close(a.per_answer_token[i], whole - changed, atol=1e-10, rtol=0)
    assert a.error is None
    assert a.deletion == "none"


def test_replacement_equals_captum_feature_ablation(model64):
    def forward(ids):
        with torch.no_grad():
            logits = model64(torch.cat([ids, torch.tensor([ANSWER]).expand(len(ids), -1)], dim=1))
        return torch.stack([read(row, ANSWER).mean() for row in logits])

    ids = torch.tensor([PROMPT])
    theirs = FeatureAblation(forward).attribute(ids, baselines=torch.full_like(ids, 7))[0]
    ours = attribute(model64, PROMPT, ANSWER, method="replace", token=7).scores
    torch.testing.assert_close(ours, theirs.to(ours), atol=1e-10, rtol=0)


def test_sampled_replacement_is_the_mean_over_draws_with_standard_error():
    model = tiny()
    a = attribute(model, PROMPT, ANSWER, method="replace", samples=5, seed=3)
    draws = sample_tokens(model, 5, 3)
    assert len(set(draws)) == 5
    each = torch.stack([attribute(model, PROMPT, ANSWER, method="replace", token=t).scores for t in draws])
    torch.testing.assert_close(a.scores, each.mean(0), atol=1e-10, rtol=0)
    torch.testing.assert_close(a.error, each.std(0) / 5**0.5, atol=1e-10, rtol=0)


def test_special_tokens_are_not_drawn():
    _, model = pair("gpt2")
    drawn = sample_tokens(model, 320, 0)
    assert len(drawn) == 318
    assert not set(drawn) & set(model.tokenizer.all_special_ids)


def test_bos_can_be_replaced():
    model = with_bos(tiny())
    a = attribute(model, PROMPT, ANSWER, method="replace", token=7, attribute_bos=True)
    expected = by_hand(model, [1, *PROMPT], ANSWER) - by_hand(model, [7, *PROMPT], ANSWER)
    torch.testing.assert_close(a.per_answer_token[0], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_knockout_equals_an_attention_mask_that_hides_the_unit(family, wrap):
    hf, model = pair(family, wrap)
    units = [(0, 1), (3, 6), (8, 9)]
    a = attribute(model, PROMPT, ANSWER, method="knockout", units=units)
    ids = torch.tensor([[*PROMPT, *ANSWER]])
    n = ids.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool).tril()

    def under(mask):
        added = torch.zeros(1, 1, n, n, dtype=torch.float64).masked_fill(~mask, torch.finfo(torch.float64).min)
        with torch.no_grad():
            return read(hf(ids, attention_mask=added).logits[0], ANSWER)

    for row, (start, end) in enumerate(units):
        mask = causal.clone()
        mask[:, start:end] = False
        mask[start:end, start:end] = causal[start:end, start:end]
        # Rotary angles are single precision in Hugging Face and double in TransformerLens.
        torch.testing.assert_close(a.per_answer_token[row], under(causal) - under(mask), atol=2e-6, rtol=0)


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
@pytest.mark.parametrize(("method", "mean"), [("zero_embed", False), ("mean_embed", True)])
def test_zero_and_mean_embeddings_equal_the_hugging_face_model(method, mean, wrap):
    hf, model = pair("gpt2", wrap)
    a = attribute(model, PROMPT, ANSWER, method=method, units=[(1, 2), (4, 7)])
    table = hf.get_input_embeddings().weight
    embed = table[torch.tensor([[*PROMPT, *ANSWER]])]
    value = table.mean(0) if mean else torch.zeros_like(table[0])
    with torch.no_grad():
        whole = read(hf(inputs_embeds=embed).logits[0], ANSWER)
        for row, (start, end) in enumerate([(1, 2), (4, 7)]):
            blank = embed.clone()
            blank[0, start:end] = value
            expected = whole - read(hf(inputs_embeds=blank).logits[0], ANSWER)
            torch.testing.assert_close(a.per_answer_token[row], expected, atol=1e-10, rtol=0)


def test_the_mean_embedding_is_over_the_vocabulary():
    model = tiny()
    torch.testing.assert_close(mean_embedding(model), model.W_E.mean(0), atol=1e-12, rtol=0)


def test_scores_do_not_depend_on_batch_size():
    model = tiny("pythia")
    for method in ("replace", "knockout", "zero_embed", "mean_embed"):
        wide, narrow = (attribute(model, PROMPT, ANSWER, method=method, batch_tokens=b) for b in (8192, 13))
        torch.testing.assert_close(wide.per_answer_token, narrow.per_answer_token, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": [1, 2]}, r"the replacement \[1, 2\] is 2 tokens long; give exactly one"),
        ({"token": 50}, "replacement id 50 lies outside the vocabulary"),
        ({"samples": 0}, "samples=0; replace needs at least 1"),
        ({"sample": 3}, "takes no option 'sample'; did you mean 'samples'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        attribute(tiny(), PROMPT, ANSWER, method="replace", **options)
