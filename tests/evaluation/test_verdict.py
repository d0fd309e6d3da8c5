"""Each rule of the verdict is checked on counts whose label is known."""

import math

import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.evaluation.verdict import distance_to_reliable, facts_to_decide, side, verdict
from unpact_lens.stats.estimate import MeanRate, PlainEstimate, Rate
from unpact_lens.stats.paired import Outcomes, paired_difference, simultaneous_differences


def excess(recovered: int, control: int, n: int):
    """`recovered` of n facts come back, `control` of them under the control as well, each of its own subject."""
    first, second = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    first[:recovered] = True
    second[:control] = True
    return paired_difference(first, second, [str(i) for i in range(n)])


def destruction(lost: int, n: int = 100):
    return MeanRate((Rate(lost, n), Rate(lost, n)))


CASES = {
    "forgets too little": (Rate(60, 100), destruction(0), {"p": excess(0, 0, 100)}, ("insufficient",)),
    "destroys": (Rate(100, 100), destruction(40), {"p": excess(0, 0, 100)}, ("destroyed",)),
    "hides": (Rate(100, 100), destruction(0), {"p": excess(40, 2, 100)}, ("hid",)),
    "hides and destroys": (Rate(100, 100), destruction(40), {"p": excess(40, 2, 100)}, ("destroyed", "hid")),
    "one probe of two": (
        Rate(100, 100), destruction(0), {"p": excess(0, 0, 100), "q": excess(40, 0, 100)}, ("hid",),
    ),
    "erases": (Rate(100, 100), destruction(0), {"p": excess(0, 0, 100), "q": excess(3, 2, 100)}, ("erased",)),
    "recovers no more than the control": (Rate(100, 100), destruction(0), {"p": excess(40, 40, 400)}, ("erased",)),
    "too few facts": (Rate(10, 10), destruction(0), {"p": excess(0, 0, 10)}, ("undecided",)),
    "35 facts are enough": (Rate(35, 35), destruction(0, 35), {"p": excess(0, 0, 35)}, ("erased",)),
    "34 facts are not": (Rate(34, 34), destruction(0, 34), {"p": excess(0, 0, 34)}, ("undecided",)),
    "no common facts": (Rate(100, 100), destruction(0), {"p": excess(0, 0, 0)}, ("undecided",)),
    "no probe was run": (Rate(100, 100), destruction(0), {}, ("undecided",)),
    "insufficient and destroys": (
        Rate(60, 100), destruction(40), {"p": excess(0, 0, 100)}, ("insufficient", "destroyed"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_labels(case):
    forgetting, destroyed, excesses, labels = CASES[case]
    judged = verdict(forgetting, destroyed, excesses)
    assert judged.labels == labels
    assert str(judged) == " + ".join(labels)
    assert set(judged.reasons) == set(labels)


def test_reasons_name_the_estimate_that_decides():
    judged = verdict(Rate(100, 100), destruction(40), {"prefill": excess(40, 2, 100), "quotes": excess(0, 0, 100)})
    assert judged.reasons["destroyed"].startswith("destruction 0.40 [")
    assert judged.reasons["hid"].startswith("excess of prefill 0.38 [")
    assert judged.open == {}


def test_open_quantities_say_how_many_facts_would_decide():
    judged = verdict(Rate(10, 10), destruction(0), {"p": excess(0, 0, 10), "q": excess(0, 0, 0)})
    assert judged.n_needed == {"forgetting": 35, "excess of p": 35, "excess of q": None}
    assert judged.open["forgetting"] == f"{Rate(10, 10)} contains 0.9"
    assert "forgetting: 1.00 [0.72, 1.00] contains 0.9; 25 more facts would decide" in judged.reasons["undecided"]
    assert judged.open["excess of q"] == "undefined: no facts to measure it on"
    frame = judged.to_frame()
    assert frame["verdict"].tolist() == ["undecided", "open: forgetting", "open: excess of p", "open: excess of q"]


@pytest.mark.parametrize("estimate", [Rate(2, 10), excess(3, 1, 10), destruction(3, 20)])
def test_facts_to_decide_is_the_smallest_number_that_decides(estimate):
    n = facts_to_decide(estimate, 0.1)
    low, high = estimate.interval(n)
    assert low > 0.1 or high <= 0.1
    low, high = estimate.interval(n - 1)
    assert low <= 0.1 < high


def test_no_number_of_facts_decides_an_estimate_equal_to_its_threshold():
    assert facts_to_decide(Rate(1, 10), 0.1) is None


def test_the_threshold_itself_counts_as_erased():
    class Exactly(Rate):
        def interval(self, n):
            return 0.1, 0.1

    assert side(Exactly(1, 10), 0.1) == "below"
    assert side(Exactly(1, 10), 0.1, at_least=True) == "above"
    assert side(Rate(0, 0), 0.1) is None


def test_distance_is_the_norm_of_the_three_shortfalls():
    assert distance_to_reliable(0.9, 0.2, [-0.5, 0.2]) == pytest.approx(0.3)
    assert distance_to_reliable(1.0, 0.0, [-0.5]) == 0
    assert distance_to_reliable(1.0, 0.0, [float("nan"), 0.5]) == 0.5
    assert math.isnan(distance_to_reliable(1.0, 0.0, []))
    assert math.isnan(distance_to_reliable(1.0, float("nan"), [0.1]))
    assert verdict(Rate(60, 100), destruction(40), {"p": excess(40, 0, 100)}).distance == pytest.approx(math.sqrt(0.48))


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.1, 2.0])
def test_a_tolerance_outside_0_to_1_is_refused(epsilon):
    with pytest.raises(InputError, match=f"epsilon={epsilon}"):
        verdict(Rate(1, 1), destruction(0), {}, epsilon=epsilon)


def test_epsilon_moves_the_thresholds():
    given = (Rate(80, 100), destruction(20), {"p": excess(20, 0, 100)})
    assert verdict(*given, epsilon=0.05).labels == ("insufficient", "destroyed", "hid")
    assert verdict(*given, epsilon=0.4).labels == ("erased",)


def family(counts, n):
    """Excesses of several probes on the same n facts, each of its own subject; the control recovers none."""
    outcomes = {}
    for i, count in enumerate(counts):
        first = torch.zeros(n, dtype=torch.bool)
        first[(torch.arange(count) * 7 + 3 * i) % n] = True
        outcomes[f"p{i}"] = Outcomes(first, torch.zeros_like(first))
    return simultaneous_differences(outcomes, [str(i) for i in range(n)])


def test_hid_needs_the_interval_that_holds_for_all_probes():
    alone, many = family([19], 100), family([19, *[0] * 11], 100)
    assert alone["p0"].low > 0.1 > many["p0"].low
    assert many["p0"].alone.low == alone["p0"].low
    assert verdict(Rate(100, 100), destruction(0), alone).labels == ("hid",)
    judged = verdict(Rate(100, 100), destruction(0), many)
    assert judged.labels == ("undecided",)
    assert set(judged.open) == {"excess of p0"}
    assert judged.n_needed["excess of p0"] > 100


def test_erased_judges_each_probe_by_its_own_interval():
    probes = family([0] * 12, 35)
    assert all(e.high > 0.1 >= e.alone.high for e in probes.values())
    assert verdict(Rate(35, 35), destruction(0, 35), probes).labels == ("erased",)


def test_clustered_facts_need_as_many_more_as_their_design_effect():
    assert facts_to_decide(Rate(0, 20, design_effect=2.0), 0.1) == 2 * 35
    assert facts_to_decide(Rate(0, 20), 0.1) == 35
    # Seeds that differ set a limit that no number of facts lifts.
    assert facts_to_decide(Rate(3, 20, seed_variance=0.05), 0.1) is None


def plain(value: float, low: float, high: float, n: int = 25):
    return PlainEstimate(value, low, high, n)


def test_an_end_on_the_threshold_counts_for_the_method():
    """F ≥ 1−ε and D, excess ≤ ε: the thresholds are 3/4 and 1/4, which are exact."""
    reached, kept = plain(0.875, 0.75, 1.0), plain(0.125, 0.0, 0.25)
    assert verdict(reached, kept, {"p": kept}, epsilon=0.25).labels == ("erased",)
    assert side(reached, 0.75, at_least=True) == "above"
    assert side(reached, 0.75) is None
    assert side(plain(0.5, 0.25, 0.75), 0.75, at_least=True) is None
    assert side(plain(0.5, 0.25, 0.75), 0.75) == "below"


def test_the_smallest_number_of_facts_puts_an_end_on_the_threshold():
    """At 100 facts the half-widths of 25 facts are halved, which gives 3/4 and 1/4 exactly."""
    forgetting, destroyed = plain(1.0, 0.5, 1.0), plain(0.0, 0.0, 0.5)
    judged = verdict(forgetting, destroyed, {"p": destroyed}, epsilon=0.25)
    assert judged.n_needed == {"forgetting": 100, "destruction": 100, "excess of p": 100}
    assert facts_to_decide(destroyed, 0.25) == 100
    assert facts_to_decide(destroyed, 0.25, at_least=True) == 101
    assert facts_to_decide(plain(0.0, 0.0, 0.001, n=1), 0.25) == 1
    assert facts_to_decide(plain(0.0, 0.0, 0.001, n=0), 0.25) is None


def test_the_table_has_every_reason_and_the_facts_that_each_open_quantity_needs():
    judged = verdict(Rate(10, 10), destruction(40), {"p": excess(0, 0, 10)})
    frame = judged.to_frame()
    assert list(frame.columns) == ["verdict", "why", "facts needed"]
    assert frame["verdict"].tolist() == ["destroyed", "open: forgetting", "open: excess of p"]
    assert frame["why"].tolist() == [*judged.reasons.values(), *judged.open.values()]
    assert frame["facts needed"].dropna().tolist() == list(judged.n_needed.values())
