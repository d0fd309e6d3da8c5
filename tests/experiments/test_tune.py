"""Every search names hyperparameters that its method has, and ranges whose ends it accepts."""

import pytest

from experiments.tune import PLANS, space_of
from unpact_lens.unlearning.registry import find
from unpact_lens.unlearning.settings import split

SEARCHES = [(which, method) for which, plan in PLANS.items() for method in plan["methods"]]


@pytest.mark.parametrize(("which", "method"), SEARCHES, ids="-".join)
def test_a_search_gives_its_method_what_it_accepts(which, method):
    plan, chosen = PLANS[which], find(method)
    space = space_of(plan, method)
    assert space
    for end in (0, 1):
        given = {
            **plan["fixed"],
            **plan.get("given", {}).get(method, {}),
            **{k: ends[end] for k, ends in space.items()},
        }
        settings, options = split(given, chosen.defaults, chosen.options)
        assert {**vars(settings), **options}.items() >= given.items()
