"""Batches follow the free memory, and the vocabulary counts."""

import pytest
import torch

from tests.conftest import tiny
from unpact_lens.errors import InputError
from unpact_lens.models import memory
from unpact_lens.models.batches import DEFAULT_BATCH_TOKENS, check_batch_tokens
from unpact_lens.models.memory import MAX_BATCH_TOKENS, MIN_BATCH_TOKENS, batch_tokens_for, run_batch_tokens
from unpact_lens.scoring import CHUNK, gather_log_probs


def free(monkeypatch, number):
    monkeypatch.setattr(memory, "free_memory", lambda _: number)


def test_the_batch_follows_the_free_memory(monkeypatch):
    found = []
    for number in (10**5, 4 * 10**7, 10**12):
        free(monkeypatch, number)
        found.append(batch_tokens_for(tiny(), None, 20))
    assert found[0] == MIN_BATCH_TOKENS < found[1] < found[2] == MAX_BATCH_TOKENS


def test_a_given_number_is_kept(monkeypatch):
    free(monkeypatch, 0)
    assert batch_tokens_for(tiny(), 7, 20) == 7


def test_a_run_takes_a_power_of_two_that_fits_and_the_default_at_most(monkeypatch):
    found = []
    for number in (0, 4 * 10**8, 10**9, 10**13):
        free(monkeypatch, number)
        found.append(run_batch_tokens(tiny(), None))
    assert found[0] == MIN_BATCH_TOKENS
    assert found[-1] == DEFAULT_BATCH_TOKENS
    assert MIN_BATCH_TOKENS < found[1] < DEFAULT_BATCH_TOKENS
    assert found == sorted(found)
    assert all(n & (n - 1) == 0 for n in found)
    free(monkeypatch, 0)
    assert [run_batch_tokens(tiny(), n) for n in (7, 10**5)] == [7, 10**5]


def test_long_texts_make_small_batches_of_a_run(monkeypatch):
    model = tiny()
    monkeypatch.setattr(model.cfg, "n_ctx", 100_000)
    free(monkeypatch, 10**9)
    assert run_batch_tokens(model, None, 512) == run_batch_tokens(model, None)
    assert run_batch_tokens(model, None, 50_000) < run_batch_tokens(model, None)


@pytest.mark.parametrize("value", [0, -1, True, "64", 1.5])
def test_a_batch_size_that_is_no_positive_whole_number_is_named(value):
    for call in (check_batch_tokens, lambda v: run_batch_tokens(tiny(), v), lambda v: batch_tokens_for(tiny(), v, 20)):
        with pytest.raises(InputError, match=f"batch_tokens={value!r}; give a positive whole number of tokens"):
            call(value)


def test_a_large_vocabulary_makes_small_batches(monkeypatch):
    """At Gemma's vocabulary of 262,144, 4096 tokens would need 4.3 GB for their logits in fp32 alone."""
    model = tiny()
    free(monkeypatch, 4 * 2**30)
    plain = batch_tokens_for(model, None, 20)
    monkeypatch.setattr(model.cfg, "d_vocab", 262_144)
    wide = batch_tokens_for(model, None, 20)
    assert wide < plain
    assert wide * 262_144 * 12 <= 2**30


def test_free_memory_is_positive():
    assert memory.free_memory(torch.device("cpu")) > 10**6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_log_probs_in_chunks_of_the_vocabulary_equal_log_softmax(dtype, monkeypatch):
    """The vocabulary is no multiple of the chunk; logits far apart do not overflow."""
    monkeypatch.setitem(CHUNK, "cpu", 100_000)
    generator = torch.Generator().manual_seed(0)
    logits = (30 * torch.randn(3, 4, 40_001, generator=generator)).to(dtype)
    logits[0, 0, 5] = 3000
    labels = torch.randint(40_001, (3, 4), generator=generator)
    expected = logits.double().log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    found = gather_log_probs(logits, labels)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Relative to the largest logit, which limits the precision of fp32.
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-6)


def test_log_probs_have_the_gradients_of_log_softmax():
    logits = torch.randn(2, 3, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits.requires_grad_(True)
    labels = torch.tensor([[1, 2, 3], [4, 5, 19_999]])
    (found,) = torch.autograd.grad(gather_log_probs(logits, labels).sum(), logits)
    expected = torch.nn.functional.one_hot(labels, 20_000) - logits.detach().softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_no_fp32_copy_of_all_half_precision_logits_is_made():
    logits = torch.zeros(1, 4, 300_000, dtype=torch.bfloat16)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
                largest.append(out.numel())
            return out

    with Watch():
        gather_log_probs(logits, torch.zeros(1, 4, dtype=torch.long))
    assert max(largest) <= CHUNK["cpu"] < logits.numel()
