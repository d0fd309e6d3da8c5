"""Each loss against a closed form, an autograd identity or finite differences, in fp64."""

import inspect
import math

import pytest
import torch
from torch.autograd import gradcheck

from unpact_lens.unlearning import losses

B, T, V, D = 3, 5, 7, 4
LENGTHS = (5, 2, 3)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def mask():
    return torch.arange(T) < torch.tensor(LENGTHS)[:, None]


@pytest.fixture
def logits():
    return rand(B, T, V, seed=1).requires_grad_()


@pytest.fixture
def ref_logits():
    return rand(B, T, V, seed=2)


@pytest.fixture
def labels():
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(3))


def log_probs_of(logits, labels):
    return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]


@pytest.fixture
def lp(logits, labels):
    return log_probs_of(logits, labels).detach().requires_grad_()


def tokens(mask):
    return [(b, t) for b in range(B) for t in range(T) if mask[b, t]]


def grad(loss, of):
    (g,) = torch.autograd.grad(loss, of, retain_graph=True)
    return g


def close(a, b, tol=1e-12):
    a, b = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (a, b))
    torch.testing.assert_close(a, b, atol=tol, rtol=0)


def test_ascent_and_nll_are_opposite_token_means(lp, mask):
    mean = sum(float(lp.detach()[b, t]) for b, t in tokens(mask)) / len(tokens(mask))
    close(losses.gradient_ascent(lp, mask), mean)
    close(losses.nll(lp, mask), -mean)


def test_npo_is_its_formula_on_sequence_sums(lp, mask):
    ref, beta = rand(B, T, seed=4), 0.3
    expected = 0.0
    for b in range(B):
        ratio = sum(float(lp.detach()[b, t] - ref[b, t]) for t in range(LENGTHS[b]))
        expected += -(2 / beta) * math.log(1 / (1 + math.exp(beta * ratio))) / B
    close(losses.npo(lp, ref, mask, beta), expected)


def test_gradient_of_npo_becomes_that_of_ascent_on_the_sequence_sum(lp, mask):
    ascent = losses.sequence_sums(lp, mask).mean()
    errors = [
        (grad(losses.npo(lp, rand(B, T, seed=4), mask, beta), lp) - grad(ascent, lp)).abs().max().item()
        for beta in (1e-2, 1e-3, 1e-4)
    ]
    assert errors[2] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)  # the difference is first order in beta
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_simnpo_on_equal_lengths_is_npo_with_beta_over_length_and_no_reference(lp):
    full, beta = torch.ones(B, T, dtype=torch.bool), 2.5
    npo = losses.npo(lp, torch.zeros(B, T, dtype=torch.float64), full, beta / T) / T
    close(losses.simnpo(lp, full, beta, delta=0.0), npo)


def test_simnpo_is_its_formula_with_a_margin(lp, mask):
    beta, delta = 1.7, 0.4
    expected = 0.0
    for b in range(B):
        mean = sum(float(lp.detach()[b, t]) for t in range(LENGTHS[b])) / LENGTHS[b]
        expected += -(2 / beta) * math.log(1 / (1 + math.exp(beta * mean + delta * beta))) / B
    close(losses.simnpo(lp, mask, beta, delta), expected)


def test_dpo_at_equal_models_is_log_2_and_elsewhere_its_formula():
    c, r, c0, r0 = (rand(B, seed=s) for s in range(4))
    close(losses.dpo(c, c, r, r), math.log(2))
    beta = 0.7
    expected = sum(math.log(1 + math.exp(-beta * float((c[b] - c0[b]) - (r[b] - r0[b])))) for b in range(B)) / B
    close(losses.dpo(c, c0, r, r0, beta), expected)
    close(losses.dpo(c, c0, r, r0, beta, scale=2 / beta), expected * 2 / beta)


def test_dpo_raises_the_chosen_and_lowers_the_rejected():
    c, r = rand(B, seed=0).requires_grad_(), rand(B, seed=1).requires_grad_()
    loss = losses.dpo(c, rand(B, seed=2), r, rand(B, seed=3))
    assert (grad(loss, c) < 0).all()
    assert (grad(loss, r) > 0).all()


@pytest.mark.parametrize(
    ("loss", "weight"),
    [
        (lambda lp, m: losses.wga(lp, m, 1.5), lambda p: p**1.5),
        (lambda lp, m: losses.satimp(lp, m, 3.0, 2.0), lambda p: p**3.0 * (1 - p) ** 2.0),
    ],
)
def test_the_weights_of_wga_and_satimp_are_frozen(lp, mask, loss, weight):
    frozen = torch.where(mask, weight(lp.detach().exp()), 0.0)
    n = len(tokens(mask))
    close(loss(lp, mask), (frozen * lp).sum().detach() / n)
    # the gradient of the formula with its weights held is the weight itself; with the weights free it would differ
    close(grad(loss(lp, mask), lp), frozen / n)
    free = torch.where(mask, weight(lp.exp()) * lp, 0.0).sum() / n
    assert not torch.allclose(grad(free, lp), frozen / n)


def test_wga_lowers_even_tokens_below_one_over_e():
    lp = torch.full((1, 1), math.log(0.1), dtype=torch.float64, requires_grad=True)
    assert grad(losses.wga(lp, torch.ones(1, 1, dtype=torch.bool)), lp).item() > 0
    assert grad((lp.exp() * lp).sum(), lp).item() < 0  # what a weight with gradient would do


def test_weighted_ascent_weighs_each_token(lp, mask):
    weights = rand(B, T, seed=9).abs()
    expected = sum(float(weights[b, t] * lp.detach()[b, t]) for b, t in tokens(mask)) / len(tokens(mask))
    close(losses.weighted_ascent(lp, weights, mask), expected)
    close(losses.weighted_ascent(lp, torch.ones_like(lp), mask), losses.gradient_ascent(lp, mask))


def test_kl_is_its_formula_and_vanishes_with_its_gradient_at_the_reference(logits, ref_logits, mask):
    expected = 0.0
    for b, t in tokens(mask):
        q, p = ref_logits[b, t].softmax(0), logits.detach()[b, t].softmax(0)
        expected += float((q * (q / p).log()).sum()) / len(tokens(mask))
    close(losses.kl_to_reference(logits, ref_logits, mask), expected)
    same = losses.kl_to_reference(logits, logits.detach(), mask)
    close(same, 0.0)
    close(grad(same, logits), torch.zeros_like(logits))


def test_gradient_of_kl_is_the_difference_of_probabilities(logits, ref_logits, mask):
    g = grad(losses.kl_to_reference(logits, ref_logits, mask), logits)
    expected = (logits.softmax(-1) - ref_logits.softmax(-1)) * mask[..., None] / len(tokens(mask))
    close(g, expected)


def test_undial_is_cross_entropy_to_the_lowered_reference(logits, ref_logits, labels, mask):
    expected = 0.0
    for b, t in tokens(mask):
        z = ref_logits[b, t].clone()
        z[labels[b, t]] -= 10.0
        expected += -float((z.softmax(0) * logits.detach()[b, t].log_softmax(0)).sum()) / len(tokens(mask))
    close(losses.undial(logits, ref_logits, labels, mask), expected)


def test_undial_with_beta_0_has_no_gradient_at_the_reference(ref_logits, labels, mask):
    logits = ref_logits.clone().requires_grad_()
    close(grad(losses.undial(logits, ref_logits, labels, mask, beta=0.0), logits), torch.zeros_like(logits))


def test_ce_u_freezes_its_target(logits, labels, mask):
    target = logits.detach().clone()
    target.scatter_(-1, labels[..., None], -torch.inf)
    q = target.softmax(-1)
    expected = -(q * logits.log_softmax(-1)).sum(-1)[mask].mean()
    close(losses.ce_u(logits, labels, mask), expected)
    # for a frozen target q the gradient of cross-entropy is p - q
    close(
        grad(losses.ce_u(logits, labels, mask), logits), (logits.softmax(-1) - q) * mask[..., None] / len(tokens(mask))
    )


def test_whp_target_lowers_logits_that_reinforcement_raised(logits, ref_logits):
    base, more = ref_logits, logits.detach()
    target = losses.whp_target(base, more, 5.0)
    raised = more > base
    close(target[raised], (base - 5 * (more - base))[raised])
    close(target[~raised], base[~raised])
    assert torch.equal(losses.whp_target(base, more, 0.0), base)


def test_rmu_terms_are_masked_mean_squares(mask):
    acts, ref, u = rand(B, T, D, seed=5), rand(B, T, D, seed=6), rand(D, seed=7)
    u = u / u.norm()
    n = len(tokens(mask)) * D
    close(
        losses.rmu_forget(acts, u, 6.5, mask), sum(float((acts[i] - 6.5 * u).square().sum()) for i in tokens(mask)) / n
    )
    close(losses.rmu_retain(acts, ref, mask), sum(float((acts[i] - ref[i]).square().sum()) for i in tokens(mask)) / n)


def every_loss(lp, ref_lp, logits, ref_logits, labels, acts, mask):
    u = torch.ones(D, dtype=torch.float64) / 2
    sums = losses.sequence_sums
    return {
        "nll": losses.nll(lp, mask),
        "gradient_ascent": losses.gradient_ascent(lp, mask),
        "npo": losses.npo(lp, ref_lp, mask, 0.5),
        "simnpo": losses.simnpo(lp, mask),
        "dpo": losses.dpo(sums(lp, mask), sums(ref_lp, mask), 2 * sums(lp, mask), sums(lp, mask)),
        "wga": losses.wga(lp, mask),
        "satimp": losses.satimp(lp, mask),
        "weighted_ascent": losses.weighted_ascent(lp, ref_lp, mask),
        "kl_to_reference": losses.kl_to_reference(logits, ref_logits, mask),
        "soft_cross_entropy": losses.soft_cross_entropy(logits, ref_logits, mask),
        "undial": losses.undial(logits, ref_logits, labels, mask),
        "ce_u": losses.ce_u(logits, labels, mask),
        "rmu_forget": losses.rmu_forget(acts, u, 2.0, mask),
        "rmu_retain": losses.rmu_retain(acts, acts.detach() * 2, mask),
    }


def test_padding_has_no_effect_on_any_loss(logits, ref_logits, labels, mask):
    """Padding filled with NaN, on the other side, and wider: the same value and the same gradient inside the mask."""
    acts, ref_lp = rand(B, T, D, seed=8), rand(B, T, seed=4)

    def build(side):
        width = T + 2

        def put(x, fill):
            wide = torch.full((B, width, *x.shape[2:]), fill, dtype=x.dtype)
            for b, n in enumerate(LENGTHS):
                start = width - n if side == "left" else 0
                wide[b, start : start + n] = x[b, :n]
            return wide

        m = put(mask, False)
        leaves = [put(x.detach(), torch.nan).requires_grad_() for x in (log_probs_of(logits, labels), logits, acts)]
        values = every_loss(
            leaves[0], put(ref_lp, torch.nan), leaves[1], put(ref_logits, torch.nan), put(labels, -100), leaves[2], m
        )
        return m, leaves, values

    plain_leaves = [x.detach().clone().requires_grad_() for x in (log_probs_of(logits, labels), logits, acts)]
    plain = every_loss(plain_leaves[0], ref_lp, plain_leaves[1], ref_logits, labels, plain_leaves[2], mask)
    assert len(plain) == 14
    for side in ("left", "right"):
        m, leaves, values = build(side)
        for name, value in values.items():
            close(value, plain[name])
            for leaf, expected in zip(leaves, plain_leaves, strict=True):
                (g,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
                (e,) = torch.autograd.grad(plain[name], expected, retain_graph=True, allow_unused=True)
                assert (g is None) == (e is None)
                if g is not None:
                    close(g[m], e[mask])
                    assert not g[~m].any()


def test_gradients_agree_with_finite_differences_where_nothing_is_frozen(lp, mask):
    ref = rand(B, T, seed=4)
    assert gradcheck(lambda x: losses.npo(x, ref, mask, 0.4), lp)
    assert gradcheck(lambda x: losses.simnpo(x, mask, 1.3, 0.2), lp)
    assert gradcheck(lambda x: losses.dpo(x.sum(-1), ref.sum(-1), -x.sum(-1), ref[:, 0]), lp)


def test_half_precision_inputs_are_computed_in_fp32(lp, mask):
    half = lp.detach().to(torch.bfloat16)
    assert losses.npo(half, half, mask).dtype == torch.float32
    close(losses.nll(half, mask), losses.nll(half.double(), mask), 1e-6)


def test_references_carry_no_gradient(logits, ref_logits, labels, mask, lp):
    ref_lp, ref_z = lp.detach().clone().requires_grad_(), ref_logits.requires_grad_()
    total = (
        losses.npo(lp, ref_lp, mask)
        + losses.kl_to_reference(logits, ref_z, mask)
        + losses.undial(logits, ref_z, labels, mask)
        + losses.dpo(lp.sum(-1), ref_lp.sum(-1), lp.sum(-1), ref_lp.sum(-1))
    )
    for ref in (ref_lp, ref_z):
        (g,) = torch.autograd.grad(total, ref, retain_graph=True, allow_unused=True)
        assert g is None or not g.any()


def test_losses_import_torch_and_shapes_only():
    lines = inspect.getsource(losses).splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported == {"__future__", "typing", "torch", "jaxtyping"}
