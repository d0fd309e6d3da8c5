"""No analysis runs on NaN weights or with dropout switched on, and weights are read again only after a change."""

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import tokenizer
from tests.models.zoo import zoo_model
from unpact_lens.attribution import attribute
from unpact_lens.comparison.diff import diff
from unpact_lens.decomposition.decompose import decompose
from unpact_lens.decomposition.lens import lens_curves
from unpact_lens.errors import InputError
from unpact_lens.models import ready
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.generate import greedy
from unpact_lens.models.ready import require_ready
from unpact_lens.scoring import log_prob

PROMPT, ANSWER = [3, 4, 5, 6], [7, 8]
CALLS = {
    "log_prob": lambda m: log_prob(m, PROMPT, ANSWER),
    "greedy": lambda m: greedy(m, [PROMPT], max_new_tokens=2),
    "attribute": lambda m: attribute(m, PROMPT, ANSWER),
    "decompose": lambda m: decompose(m, PROMPT, ANSWER),
    "lens_curves": lambda m: lens_curves(m, PROMPT, ANSWER),
    "diff": lambda m: diff(m, m, PROMPT, ANSWER),
}


def model_of(kind):
    return tiny(dtype=torch.float32) if kind == "hooked" else to_bridge(zoo_model("llama"), tokenizer())


@pytest.mark.parametrize("kind", ["hooked", "bridge"])
@pytest.mark.parametrize("call", CALLS)
def test_every_analysis_refuses_nan_weights(kind, call):
    model = model_of(kind)
    CALLS[call](model)
    with torch.no_grad():
        list(model.parameters())[3].view(-1)[0] = float("nan")
    with pytest.raises(InputError, match=r"weight \S+ holds NaN or infinity; load a sound checkpoint"):
        CALLS[call](model)


@pytest.mark.parametrize("call", CALLS)
def test_every_analysis_refuses_dropout_noise(call):
    model = to_bridge(zoo_model("llama", attention_dropout=0.1), tokenizer())
    CALLS[call](model)
    model.train()
    with pytest.raises(InputError, match=r"in train(ing)? mode.* random.*; call model.eval\(\)"):
        CALLS[call](model)


@pytest.mark.hooked
def test_training_mode_without_dropout_is_no_obstacle():
    model = tiny(dtype=torch.float32).train()
    log_prob(model, PROMPT, ANSWER)


@pytest.mark.hooked
def test_weights_are_read_again_only_after_a_change(monkeypatch):
    model, reads = tiny(), []
    plain = ready.check_sound
    monkeypatch.setattr(ready, "check_sound", lambda named: reads.append(1) or plain(named))
    with torch.no_grad():
        for _ in range(3):
            require_ready(model)
        assert len(reads) == 1
        model.W_E[0, 0] += 1
        require_ready(model)
        assert len(reads) == 2
        model.unembed.W_U.data = model.unembed.W_U.data.clone()
        require_ready(model)
        assert len(reads) == 3
        copied = clone(model)
        copied.blocks[0].mlp.W_in[0, 0] = float("inf")
        with pytest.raises(InputError, match=r"weight blocks\.0\.mlp\.W_in holds NaN or infinity"):
            require_ready(copied)


def test_large_finite_weights_are_sound():
    model = tiny(dtype=torch.float32)
    with torch.no_grad():
        model.W_E.fill_(3e38)
        require_ready(model)


def test_large_half_precision_weights_are_finite():
    """Their sum is taken in fp32 first, where it overflows, and then in fp64."""
    large = torch.full((64,), 3e38, dtype=torch.bfloat16)
    ready.check_sound([("large", large)])
    large[3] = float("nan")
    with pytest.raises(InputError, match="weight large holds NaN or infinity"):
        ready.check_sound([("large", large)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 4), (40, 3, 2)])
def test_weights_are_summed_part_by_part(dtype, shape, monkeypatch):
    monkeypatch.setattr(ready, "PART", 6)
    ready.check_sound([("w", torch.ones(shape, dtype=dtype))])
    for place in range(torch.Size(shape).numel()):
        weight = torch.ones(shape, dtype=dtype)
        weight.view(-1)[place] = float("inf")
        with pytest.raises(InputError, match="weight w holds NaN or infinity"):
            ready.check_sound([("w", weight)])
