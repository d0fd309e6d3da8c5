"""Two threads on one model give the results of calls one after the other."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.faults.artefacts import told
from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained, world
from unpact_lens.attribution import attribute
from unpact_lens.comparison import diff, patch
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition import ablate, decompose
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.generate import generate_answers
from unpact_lens.scoring import log_prob
from unpact_lens.unlearning import unlearn

HOOKED = ("where was ann born", " the town was oslo .")
BRIDGED = ("the capital of Japan is", " Tokyo")
CAPITALS = [QA(*BRIDGED), QA("the capital of France is", " Paris")], [QA("the capital of Peru is", " Lima")]


def hooked_model():
    return untrained("gpt2", dtype=torch.float32), untrained("gpt2", dtype=torch.float32, seed=7), HOOKED


def bridged_model():
    models = (to_bridge(hf_model("gpt2", seed), tokenizer(prepends_bos=True)) for seed in (0, 1))
    return *models, BRIDGED


CALLS = {
    "log_prob": lambda m, other, asked: log_prob(m, *asked),
    "leave_one_out": lambda m, other, asked: attribute(m, *asked).scores.tolist(),
    "grad_x_input": lambda m, other, asked: attribute(m, *asked, method="grad_x_input").scores.tolist(),
    "value_zeroing": lambda m, other, asked: attribute(m, *asked, method="value_zeroing").scores.tolist(),
    "heads": lambda m, other, asked: decompose(m, *asked, by="head").values.tolist(),
    "components": lambda m, other, asked: decompose(m, *asked).values.tolist(),
    "ablate": lambda m, other, asked: ablate(m, *asked).to_frame().to_json(),
    "patch": lambda m, other, asked: patch(m, other, *asked).to_frame().to_json(),
    "diff": lambda m, other, asked: diff(m, other, *asked, weights=False).to_frame().to_json(),
    "answers": lambda m, other, asked: generate_answers(m, [asked[0]], max_new_tokens=4),
    "clone": lambda m, other, asked: told(clone(m)) + str(sum(len(p.fwd_hooks) for p in hooks_of(clone(m)))),
}


def hooks_of(model):
    return [p for p in model.modules() if hasattr(p, "fwd_hooks")]


def wrong_results(make, threads, rounds):
    """Run every call in several threads at once, on the same models; return the number of calls and of wrong ones."""
    one, other, asked = make()
    expected = {name: call(one, other, asked) for name, call in CALLS.items()}
    names = [name for _ in range(rounds) for name in CALLS]
    barrier = threading.Barrier(threads)

    def work(number):
        barrier.wait()
        order = names[number:] + names[:number]
        return [(name, CALLS[name](one, other, asked) != expected[name]) for name in order]

    with ThreadPoolExecutor(threads) as pool:
        found = [outcome for outcomes in pool.map(work, range(threads)) for outcome in outcomes]
    assert not any(p.fwd_hooks for m in (one, other) for p in hooks_of(m))
    return len(found), [name for name, wrong in found if wrong]


@pytest.mark.parametrize("make", [hooked_model, bridged_model], ids=["hooked", "bridge"])
def test_two_threads_on_one_model_give_the_same_results(make):
    done, wrong = wrong_results(make, threads=2, rounds=1)
    assert done == 2 * len(CALLS)
    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("make", [hooked_model, bridged_model], ids=["hooked", "bridge"])
def test_four_threads_for_long_give_the_same_results(make, record_property):
    done, wrong = wrong_results(make, threads=4, rounds=8)
    record_property("calls", done)
    assert wrong == []


@pytest.mark.parametrize(
    ("make", "facts"), [(hooked_model, world()), (bridged_model, CAPITALS)], ids=["hooked", "bridge"]
)
def test_threads_unlearn_one_model_to_the_same_weights(make, facts):
    model, *_ = make()
    run = {"method": "npo_gdr", "steps": 3, "batch_size": 4, "progress": False}
    expected = told(unlearn(model, *facts, **run).model)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places within each copy and each step
    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: told(unlearn(model, *facts, **run).model), range(9)))
    finally:
        sys.setswitchinterval(interval)
    assert set(found) == {expected}


def test_the_lock_may_be_taken_again_by_its_thread_and_ends_with_its_model():
    model = untrained()
    with exclusive(model), exclusive(model):
        assert log_prob(model, *HOOKED) < 0
