"""Requirements are read by a small grammar and compared with whole intervals."""

from dataclasses import dataclass

import pytest

from unpact_lens.auditing.require import read_requirements, unmet
from unpact_lens.errors import InputError
from unpact_lens.stats.estimate import Rate


@dataclass
class Judged:
    labels: tuple
    distance: float = 0.2

    def __str__(self):
        return " + ".join(self.labels)


@dataclass
class StandIn:
    verdict: Judged
    d: Rate
    excesses: dict
    recovery: None = None

    def measures(self):
        return {"D": self.d, "excess": self.d, **{f"excess[{p}]": e for p, e in self.excesses.items()}}


AUDIT = StandIn(Judged(("hid", "destroyed")), Rate(2, 100), {"prefill": Rate(0, 100), "noise": Rate(30, 100)})


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("verdict==hid", True),
        ("verdict==erased", False),
        ("verdict!=erased", True),
        ("D<=0.1", True),
        ("D<=0.03", False),  # the estimate is 0.02, but its interval ends above
        ("D.value<=0.03", True),
        ("D.n>=100", True),
        ("excess<=0.1", False),
        ("excess[prefill]<=0.1", True),
        ("distance<0.3", True),
        ("verdict==hid, D<=0.1, excess<=0.1", False),
    ],
)
def test_a_requirement_holds_if_the_whole_interval_does(text, holds):
    assert (unmet(AUDIT, read_requirements(text)) == ()) is holds


def test_what_does_not_hold_is_said():
    assert unmet(AUDIT, read_requirements("verdict==erased"))[0] == (
        "verdict==erased does not hold: verdict is hid + destroyed"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no requirement is given"),
        ("D", "requirement 'D' cannot be read"),
        ("__import__('os')==1", "cannot be read"),
        ("verdict==eased", "did you mean 'erased'"),
        ("verdict<=erased", "compared by == or !="),
        ("E<=0.1", "unknown measure 'E'"),
        ("D==0.1", "compared by <=, >=, < or >"),
        ("D<=low", "'low' is no number"),
        ("D.hgh<=0.1", "did you mean 'high'"),
    ],
)
def test_a_wrong_requirement_is_named(text, message):
    with pytest.raises(InputError, match=message):
        read_requirements(text)


def test_a_probe_that_was_not_run_is_named():
    with pytest.raises(InputError, match=r"'excess\[nois\]' was not measured; did you mean 'excess\[noise\]'"):
        unmet(AUDIT, read_requirements("excess[nois]<=0.1"))
