"""Defaults, frozen parts and means of the losses, each against a plain loop; found missing by changing the formulas."""

import math

import pytest
import torch

from unpact_lens.unlearning import losses

GENERATOR = torch.Generator().manual_seed(5)
MASK = torch.tensor(
    [[False, True, True, True, False], [True, False, False, True, False], [True, True, True, True, True]]
)


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


LOG_P, REF_LOG_P = -rand(3, 5).abs() - 0.1, -rand(3, 5).abs() - 0.1
LOGITS, REF_LOGITS = rand(3, 5, 7), rand(3, 5, 7)
LABELS = torch.randint(0, 7, (3, 5), generator=GENERATOR)
ACTS, REF_ACTS, DIRECTION = rand(3, 5, 4), rand(3, 5, 4), rand(4)
ON = [(b, t) for b in range(3) for t in range(5) if MASK[b, t]]


def sums(values):
    return [sum(float(values[b, t]) for t in range(5) if MASK[b, t]) for b in range(3)]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_defaults_are_those_of_the_sources():
    ratio = [a - b for a, b in zip(sums(LOG_P), sums(REF_LOG_P), strict=True)]
    npo = mean(2 / 0.1 * math.log1p(math.exp(0.1 * r)) for r in ratio)
    assert float(losses.npo(LOG_P, REF_LOG_P, MASK)) == pytest.approx(npo)
    per_token = [s / int(MASK[b].sum()) for b, s in enumerate(sums(LOG_P))]
    assert float(losses.simnpo(LOG_P, MASK)) == pytest.approx(
        mean(2 / 4.5 * math.log1p(math.exp(4.5 * p)) for p in per_token)
    )
    chosen, rejected = LOG_P[:, 0], REF_LOG_P[:, 0]
    margin = (chosen - LOG_P[:, 1]) - (rejected - REF_LOG_P[:, 1])
    dpo = mean(math.log1p(math.exp(-0.1 * float(m))) for m in margin)
    assert float(losses.dpo(chosen, LOG_P[:, 1], rejected, REF_LOG_P[:, 1])) == pytest.approx(dpo)
    p = {at: math.exp(float(LOG_P[at])) for at in ON}
    assert float(losses.wga(LOG_P, MASK)) == pytest.approx(mean(p[at] * float(LOG_P[at]) for at in ON))
    assert float(losses.satimp(LOG_P, MASK)) == pytest.approx(
        mean(p[at] ** 5 * (1 - p[at]) * float(LOG_P[at]) for at in ON)
    )
    raised = (REF_LOGITS - LOGITS).clamp(min=0)
    torch.testing.assert_close(losses.whp_target(LOGITS, REF_LOGITS), LOGITS - 5 * raised)


def cross_entropy(at, q):
    log_p = LOGITS[at] - math.log(sum(math.exp(float(z)) for z in LOGITS[at]))
    return -sum(float(a) * float(b) for a, b in zip(q, log_p, strict=True))


def softmax(z):
    return [math.exp(float(v)) / sum(math.exp(float(w)) for w in z) for v in z]


def test_undial_lowers_the_label_by_ten_unless_another_amount_is_given():
    def expected(beta):
        lowered = REF_LOGITS.clone()
        for at in ON:
            lowered[at][LABELS[at]] -= beta
        return mean(cross_entropy(at, softmax(lowered[at])) for at in ON)

    assert float(losses.undial(LOGITS, REF_LOGITS, LABELS, MASK)) == pytest.approx(expected(10))
    assert float(losses.undial(LOGITS, REF_LOGITS, LABELS, MASK, beta=2)) == pytest.approx(expected(2))


@pytest.mark.parametrize("ignored", [0, 1])
def test_ce_u_leaves_out_the_first_tokens_of_each_answer(ignored):
    def target(at):
        kept = [float(z) for v, z in enumerate(LOGITS[at]) if v != int(LABELS[at])]
        whole = softmax(torch.tensor(kept, dtype=torch.float64))
        whole.insert(int(LABELS[at]), 0.0)
        return whole

    counted = [(b, t) for b, t in ON if int(MASK[b, : t + 1].sum()) > ignored]
    expected = mean(cross_entropy(at, target(at)) for at in counted)
    assert float(losses.ce_u(LOGITS, LABELS, MASK, ignored)) == pytest.approx(expected)
    if not ignored:
        assert float(losses.ce_u(LOGITS, LABELS, MASK)) == pytest.approx(expected)


@pytest.mark.parametrize("over", ["token", "example"])
def test_rmu_terms_are_means_over_tokens_or_over_examples(over):
    def expected(gap):
        squares = {at: mean(float(g) ** 2 for g in gap[at]) for at in ON}
        if over == "token":
            return mean(squares.values())
        return mean(mean(v for (row, _), v in squares.items() if row == b) for b in range(3))

    forget = losses.rmu_forget(ACTS, DIRECTION, 6.5, MASK, over)
    assert float(forget) == pytest.approx(expected(ACTS - 6.5 * DIRECTION))
    assert float(losses.rmu_retain(ACTS, REF_ACTS, MASK, over)) == pytest.approx(expected(ACTS - REF_ACTS))


FROZEN = {
    "weights": (LOG_P, lambda given: losses.weighted_ascent(LOG_P.clone().requires_grad_(), given, MASK)),
    "target": (REF_LOGITS, lambda given: losses.soft_cross_entropy(LOGITS.clone().requires_grad_(), given, MASK)),
    "direction": (DIRECTION, lambda given: losses.rmu_forget(ACTS.clone().requires_grad_(), given, 2.0, MASK)),
    "activations": (REF_ACTS, lambda given: losses.rmu_retain(ACTS.clone().requires_grad_(), given, MASK)),
}


@pytest.mark.parametrize("part", FROZEN)
def test_no_gradient_flows_into_what_is_given(part):
    values, loss = FROZEN[part]
    given = values.clone().requires_grad_()
    loss(given).backward()
    assert given.grad is None
