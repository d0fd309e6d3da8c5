"""Test properties of every attribution method, and leave-one-out on random shapes."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.attribution.test_leave_one_out import HEAD, brute_force, random_ids, with_bos
from tests.conftest import STYLES, tiny
from unpact_lens.attribution import METHODS, attribute, attribute_many
from unpact_lens.errors import InputError

SMALL = {
    "replace": {"samples": 2},
    "shapley": {"samples": 4},
    "context_cite": {"samples": 16},
    "integrated_gradients": {"steps": 3},
    "smoothgrad": {"samples": 2},
}
"""Options that keep sampled methods short; the properties hold at any."""

FREE_TARGET = [name for name, m in METHODS.items() if m.fixed_target is None]

ids = st.lists(st.integers(0, 49), min_size=1, max_size=12)
items = st.lists(st.tuples(ids, st.lists(st.integers(0, 49), min_size=1, max_size=4)), min_size=1, max_size=3)


def drawn(count):
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize("method", METHODS)
@drawn(3)
@given(items=items, batch_tokens=st.sampled_from([1, 20, 8192]), data=st.data())
def test_scores_do_not_depend_on_batch_size_order_batch_mates_or_copy_of_the_model(method, items, batch_tokens, data):
    order = data.draw(st.permutations(range(len(items))))
    options = SMALL.get(method, {})
    together = attribute_many(
        with_bos(tiny("llama")), [items[i] for i in order], method=method, batch_tokens=batch_tokens, **options
    )
    duplicate = with_bos(tiny("llama"))
    for i, found in zip(order, together, strict=True):
        alone = attribute(duplicate, *items[i], method=method, batch_tokens=64, **options)
        torch.testing.assert_close(found.per_answer_token, alone.per_answer_token, atol=1e-9, rtol=0)
        again = attribute(with_bos(tiny("llama")), *items[i], method=method, batch_tokens=64, **options)
        assert again.per_answer_token.equal(alone.per_answer_token)


@drawn(12)
@given(
    style=st.sampled_from(STYLES),
    bos=st.booleans(),
    prompt=st.lists(st.integers(7, 9), min_size=1, max_size=30),
    answer=st.lists(st.integers(7, 9), min_size=1, max_size=40),
)
def test_leave_one_out_equals_brute_force_with_repeated_tokens(style, bos, prompt, answer):
    model = with_bos(tiny(style)) if bos else tiny(style)
    if len(prompt) == 1 and not bos:
        with pytest.raises(InputError, match="leaves no context before the answer"):
            attribute(model, prompt, answer)
        return
    expected = brute_force(model, prompt, answer, [HEAD] if bos else [])
    torch.testing.assert_close(attribute(model, prompt, answer).per_answer_token, expected, atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_leave_one_out_equals_brute_force_on_long_prompts(style, bos):
    model = with_bos(tiny(style)) if bos else tiny(style)
    prompt, answer = random_ids(300), random_ids(40, seed=1)
    expected = brute_force(model, prompt, answer, [HEAD] if bos else [])
    torch.testing.assert_close(attribute(model, prompt, answer).per_answer_token, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", [m for m in FREE_TARGET if m not in ("grad_norm", "smoothgrad", "context_cite")])
def test_linear_methods_are_linear_in_the_target(method):
    """Norms are not linear, and neither is a sparse fit; all others follow whatever target is set."""
    model, prompt, answer, foil = with_bos(tiny("pythia")), random_ids(5), [4, 9], [3, 2]
    options = SMALL.get(method, {})

    def of(token_ids):
        def logits_of(logits, _):
            return logits[torch.arange(2), token_ids]

        return attribute(model, prompt, answer, method=method, target=logits_of, **options).per_answer_token

    found = attribute(model, prompt, answer, method=method, target="logit_diff", foil=foil, **options)
    torch.testing.assert_close(found.per_answer_token, of(answer) - of(foil), atol=1e-9, rtol=0)
    assert found.target == "logit_diff"


@pytest.mark.parametrize("method", METHODS)
def test_train_mode_and_too_long_inputs_are_refused(method):
    with pytest.raises(InputError, match=r"train mode.*model\.eval\(\)"):
        attribute(with_bos(tiny()).train(), [1, 2], [3], method=method)
    with pytest.raises(
        InputError, match="train mode"
    ):  # before an answer is generated, which this context is too long for
        attribute(with_bos(tiny()).train(), [1] * 390, None, method=method)
    with pytest.raises(InputError, match="the model's context is 400"):
        attribute(with_bos(tiny()), [1] * 390, [3] * 20, method=method)


def test_the_reference_page_lists_every_method():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "attribution.md").read_text()
    rows = {cells[1].strip(" `"): cells for line in page.splitlines() if len(cells := line.split("|")) == 7}
    for name, method in METHODS.items():
        _, _, about, deletes, needs, source, _ = rows[name]
        assert about.strip() == method.about
        assert deletes.strip() == ("yes" if method.deletion == "ids" else "no")
        assert needs.strip() == ("log-probabilities" if method.scores_only else "weights")
        assert source.strip() == method.source
