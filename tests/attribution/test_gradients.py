"""Gradients equal finite differences and captum's on the Hugging Face model."""

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency

from tests.attribution.test_leave_one_out import random_ids
from tests.attribution.test_perturbation import pair, read
from tests.conftest import tiny
from unpact_lens.attribution import attribute
from unpact_lens.errors import InputError

PROMPT, ANSWER = random_ids(6), [4, 2, 9]


def peer(hf, k=None):
    """What captum differentiates: mean log p of the answer (or log p of its k-th token), from prompt embeddings."""
    table = hf.get_input_embeddings().weight
    rest = table[torch.tensor([ANSWER])]

    def forward(embed):
        logits = hf(inputs_embeds=torch.cat([embed, rest.expand(len(embed), -1, -1)], dim=1)).logits
        values = torch.stack([read(row, ANSWER) for row in logits])
        return values.mean(1) if k is None else values[:, k]

    return forward, table[torch.tensor([PROMPT])].detach()


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_integrated_gradients_equal_captum(wrap):
    hf, model = pair("gpt2", wrap)
    forward, embed = peer(hf)
    theirs, delta = IntegratedGradients(forward).attribute(
        embed, torch.zeros_like(embed), n_steps=20, method="gausslegendre", return_convergence_delta=True
    )
    a = attribute(model, PROMPT, ANSWER, method="integrated_gradients", steps=20, baseline="zero")
    # captum holds its step sizes in single precision.
    torch.testing.assert_close(a.scores, theirs[0].sum(-1).detach(), atol=1e-6, rtol=0)
    assert a.convergence_delta == pytest.approx(delta.item(), abs=1e-6)


def test_baselines_can_be_chosen():
    hf, model = pair("gpt2")
    forward, embed = peer(hf)
    table = hf.get_input_embeddings().weight
    for baseline, value in (("mean", table.mean(0)), (5, table[5])):
        theirs = IntegratedGradients(forward).attribute(
            embed, value.expand_as(embed).detach(), n_steps=8, method="gausslegendre"
        )
        a = attribute(model, PROMPT, ANSWER, method="integrated_gradients", steps=8, baseline=baseline)
        torch.testing.assert_close(a.scores, theirs[0].sum(-1).detach(), atol=1e-6, rtol=0)


def test_completeness_improves_with_steps_and_is_reported(model64):
    def delta(steps):
        a = attribute(model64, PROMPT, ANSWER, method="integrated_gradients", steps=steps)
        # All units at once at the baseline: what the values should sum to.
        mean = attribute(model64, PROMPT, ANSWER, method="mean_embed", units=[(0, len(PROMPT))])
        assert a.convergence_delta == pytest.approx((a.scores.sum() - mean.scores[0]).item(), abs=1e-9)
        return abs(a.convergence_delta)

    # The mean embedding is near the singular point of the norms: the sum converges, but not fast.
    few, many = delta(4), delta(48)
    assert many < 0.02
    assert many < few / 3


@pytest.mark.parametrize("k", [0, 2])
def test_gradient_times_input_and_norm_equal_captum(k):
    hf, model = pair("gpt2")
    forward, embed = peer(hf, k)
    product = InputXGradient(forward).attribute(embed.requires_grad_())[0].sum(-1).detach()
    norm = Saliency(forward).attribute(embed, abs=False)[0].norm(dim=-1).detach()
    ours = attribute(model, PROMPT, ANSWER, method="grad_x_input").per_answer_token[:, k]
    torch.testing.assert_close(ours, product, atol=1e-10, rtol=0)
    ours = attribute(model, PROMPT, ANSWER, method="grad_norm").per_answer_token[:, k]
    torch.testing.assert_close(ours, norm, atol=1e-10, rtol=0)


def test_gradients_equal_finite_differences(model64):
    from unpact_lens.attribution.gradients import EmbeddingTarget
    from unpact_lens.attribution.scorer import Scorer
    from unpact_lens.attribution.units import make_example
    from unpact_lens.models.tokens import encode

    example = make_example(model64, encode(model64, PROMPT, ANSWER), PROMPT, ANSWER)
    field = EmbeddingTarget(Scorer(model64), example)
    way = torch.randn(field.embed.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = 1e-5
    differences = (field.values(field.embed + h * way) - field.values(field.embed - h * way)) / (2 * h)
    torch.testing.assert_close((field.gradients() * way).sum((1, 2)), differences, atol=1e-6, rtol=1e-6)


def test_a_unit_of_several_tokens_pools_their_scores(model64):
    for method, pooled in (
        ("grad_x_input", lambda v: v.sum(0)),
        ("integrated_gradients", lambda v: v.sum(0)),
        ("grad_norm", lambda v: v.square().sum(0).sqrt()),
    ):
        options = {"steps": 3} if method == "integrated_gradients" else {}
        single = attribute(model64, PROMPT, ANSWER, method=method, units=[(1, 2), (2, 3), (3, 4)], **options)
        both = attribute(model64, PROMPT, ANSWER, method=method, units=[(1, 4)], **options)
        if method == "integrated_gradients":
            # Its path moves only what is attributed, which is the same three tokens here.
            assert single.convergence_delta == pytest.approx(both.convergence_delta)
        torch.testing.assert_close(both.per_answer_token[0], pooled(single.per_answer_token), atol=1e-10, rtol=0)


def test_smoothgrad_without_noise_equals_the_gradient_norm_and_follows_the_seed(model64):
    plain = attribute(model64, PROMPT, ANSWER, method="grad_norm")
    still = attribute(model64, PROMPT, ANSWER, method="smoothgrad", sigma=0.0, samples=2)
    torch.testing.assert_close(still.per_answer_token, plain.per_answer_token, atol=1e-10, rtol=0)
    a, b, c = (attribute(model64, PROMPT, ANSWER, method="smoothgrad", samples=2, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.scores, b.scores)
    assert not torch.equal(a.scores, c.scores)


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_smoothgrad_equals_the_norm_of_the_mean_gradient_over_the_same_noise(wrap):
    """The mean is taken over gradients, before their norm; noise is on the prompt only, as wide as its spread says."""
    hf, model = pair("gpt2", wrap)
    samples, sigma, seed, k = 4, 0.7, 3, 1
    forward, embed = peer(hf, k)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(embed)
    for _ in range(samples):
        # Drawn for every input position, the answer's too.
        drawn = torch.randn(len(PROMPT) + len(ANSWER) - 1, embed.shape[2], generator=generator, dtype=embed.dtype)
        noisy = (embed + sigma * embed.std() * drawn[: len(PROMPT)]).requires_grad_()
        total += torch.autograd.grad(forward(noisy).sum(), noisy)[0]
    expected = (total / samples)[0].norm(dim=-1)
    a = attribute(model, PROMPT, ANSWER, method="smoothgrad", samples=samples, sigma=sigma, seed=seed)
    torch.testing.assert_close(a.per_answer_token[:, k], expected, atol=1e-10, rtol=0)
    plain = attribute(model, PROMPT, ANSWER, method="grad_norm")
    assert (a.per_answer_token[:, k] - plain.per_answer_token[:, k]).abs().max() > 1e-3


def test_gradients_do_not_depend_on_batch_size_and_leave_no_grad(model64):
    wide, narrow = (attribute(model64, PROMPT, ANSWER, method="grad_norm", batch_tokens=b) for b in (4096, 5))
    torch.testing.assert_close(wide.per_answer_token, narrow.per_answer_token, atol=1e-10, rtol=0)
    assert all(p.grad is None for p in model64.parameters())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("integrated_gradients", {"steps": 0}, "steps=0; integrated gradients needs at least 1"),
        ("integrated_gradients", {"baseline": "zeros"}, "unknown baseline 'zeros'; did you mean 'zero'"),
        ("integrated_gradients", {"baseline": 99}, "replacement id 99 lies outside"),
        ("smoothgrad", {"samples": 0}, "samples=0, sigma=0.1; smoothgrad needs"),
        ("grad_norm", {"steps": 3}, "method 'grad_norm' takes no option 'steps'; it has none"),
    ],
)
def test_bad_options_are_named(method, options, message):
    with pytest.raises(InputError, match=message):
        attribute(tiny(), PROMPT, ANSWER, method=method, **options)
