"""Decoding on the source model equals transformers' generate of each text alone."""

import pytest
import torch

from tests.models.test_source_model import ELSEWHERE, QUICK, REFUSED
from tests.models.zoo import ZOO, zoo_model
from unpact_lens.models import generate
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.generate import greedy
from unpact_lens.models.source_decoding import SourceBatch, decoding_source


def contexts():
    """Contexts of many lengths, beyond the windows of 7, some of which begin alike."""
    ids = torch.randint(2, 300, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    return [ids[:12], ids[:3], ids[:7] + ids[20:29], ids[30:31], ids[8:25], ids[:12]]


def check(name):
    hf = zoo_model(name)
    model = to_bridge(hf, None)
    with torch.inference_mode():
        assert (decoding_source(model) is not None) == (name not in ELSEWHERE)
        given, new = contexts(), 8
        answers = greedy(model, given, max_new_tokens=new)
        for context, answer in zip(given, answers, strict=True):
            ids = list(context)
            for token in answer:
                logits = hf(torch.tensor([ids])).logits[0, -1]
                # Equal but for ties within rounding error.
                assert float(logits.max() - logits[token]) < 1e-4
                ids.append(token)


@pytest.mark.parametrize("name", QUICK)
def test_answers_equal_those_of_each_text_alone(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ZOO if n not in QUICK and n not in ELSEWHERE and n not in REFUSED])
def test_answers_equal_those_of_each_text_alone_for_every_architecture(name):
    check(name)


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "granite"])
def test_logits_of_each_step_equal_those_of_the_whole_text(name):
    hf = zoo_model(name)
    model = to_bridge(hf, None)
    given = contexts()
    new = torch.randint(2, 300, (5, len(given)), generator=torch.Generator().manual_seed(1))
    keep = torch.tensor([0, 2, 4, 5])
    with torch.inference_mode():
        batch = SourceBatch(model, decoding_source(model), given, len(new))
        texts, rows = [list(c) for c in given], list(range(len(given)))
        found = batch.read(None)
        for k, tokens in enumerate(new):
            for row, logits in zip(rows, found, strict=True):
                torch.testing.assert_close(logits, hf(torch.tensor([texts[row]])).logits[0, -1], atol=1e-4, rtol=0)
            if k == 2:
                batch.keep(keep)
                rows = [rows[i] for i in keep]
            for row in rows:
                texts[row].append(int(tokens[row]))
            found = batch.read(tokens[rows])


def test_rows_that_end_leave_the_batch():
    model = to_bridge(zoo_model("llama"), None)
    given = contexts()
    free = greedy(model, given, max_new_tokens=9)
    stops = {free[0][2], free[3][0], free[4][4]}

    def cut(answer):
        return answer[: next((k for k, t in enumerate(answer) if t in stops), len(answer))]

    assert greedy(model, given, max_new_tokens=9, stop_ids=tuple(stops)) == [cut(a) for a in free]


def test_hooks_on_the_prompt_run_on_the_hooked_model(monkeypatch):
    model = to_bridge(zoo_model("llama"), None)
    plain = greedy(model, contexts(), max_new_tokens=4)
    monkeypatch.setattr(generate, "SourceBatch", None)  # fails if it is made
    hooks = lambda rows, width: [("blocks.0.hook_mlp_out", lambda act, hook: -5 * act)]  # noqa: E731
    assert greedy(model, contexts(), max_new_tokens=4, prompt_hooks=hooks) != plain
