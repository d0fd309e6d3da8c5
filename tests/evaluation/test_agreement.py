"""Metrics are compared with labels, and the shipped labels cover every case."""

from collections import Counter

import pandas as pd
import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.evaluation.agreement import AnswerMetric, LabelledPair, agreement, labelled_pairs

TEXT_ONLY = ["exact_match", "contains", "rouge_l", "rouge_l_recall", "rouge_1"]

PAIRS = [
    LabelledPair("?", "It is in Oslo.", "It is in Oslo.", True, "same"),
    LabelledPair("?", "It is in Oslo.", "It is in Rome.", False, "near"),
    LabelledPair("?", "It is in Oslo.", "Oslo", True, "short"),
    LabelledPair("?", "It is in Oslo.", "No idea", False, "refusal"),
]


def test_accuracy_auc_and_errors_by_hand():
    """ROUGE-L F1 here: 1, 3/4, 2·(1/4)/(5/4) = 2/5, 0; half is the threshold."""
    result = agreement(["rouge_l"], PAIRS)
    torch.testing.assert_close(result.scores[0], torch.tensor([1.0, 0.75, 0.4, 0.0], dtype=torch.double))
    row = result.to_frame().loc[0]
    assert (row["accuracy"], row["auc"]) == (0.5, 0.75)
    assert (row["wrong_held_right"], row["right_held_wrong"]) == (0.5, 0.5)
    assert result.by_case()["rouge_l"].to_dict() == {"same": 1, "near": 0, "short": 0, "refusal": 1}
    assert result.failures("rouge_l")["answer"].tolist() == ["It is in Rome.", "Oslo"]


def test_a_metric_of_the_user_is_compared():
    longest = AnswerMetric(lambda said, gold: torch.tensor([float(len(s)) for s in said]), 10.0)
    result = agreement({"length": longest}, pd.DataFrame([vars(p) for p in PAIRS]))
    assert result.says_right("length").tolist() == [True, True, False, False]
    assert result.pairs == tuple(PAIRS)


def test_the_labelled_pairs_are_distinct_and_cover_every_case():
    pairs = labelled_pairs()
    cases = Counter(p.case for p in pairs)
    assert len(pairs) >= 60
    assert len({(p.gold, p.answer) for p in pairs}) == len(pairs)
    assert {"paraphrase", "number", "negation", "near miss"} <= set(cases)
    assert min(cases[c] for c in ("paraphrase", "number", "negation", "near miss")) >= 12
    assert 0.3 < sum(p.right for p in pairs) / len(pairs) < 0.7


def test_rouge_l_fails_on_negations_and_near_misses_and_not_on_plain_pairs():
    """The finding that the labelled set exists to show."""
    table = agreement(TEXT_ONLY).by_case()["rouge_l"]
    assert table["plain"] == 1.0
    assert table["near miss"] == 0.0
    assert table["negation"] < 0.2
    assert table["paraphrase"] < 0.2


def test_results_are_saved_without_loss(tmp_path):
    from unpact_lens.results import load

    result = agreement(["rouge_l"], PAIRS)
    assert load(result.save(tmp_path / "a")) == result


@pytest.mark.parametrize(
    ("metrics", "labelled", "message"),
    [
        (["rouge_x"], None, "unknown answer metric 'rouge_x'; did you mean"),
        ("rouge_l", None, r"metrics='rouge_l' is one text; give a list of names"),
        ({}, PAIRS, "metrics is empty; name at least one"),
        (["rouge_l"], PAIRS[:1], "1 labelled pairs, all with the same label"),
        (["rouge_l"], pd.DataFrame({"gold": ["a"], "answer": ["b"]}), "have no column 'right'; they have gold, answer"),
    ],
)
def test_errors_name_the_bad_input(metrics, labelled, message):
    with pytest.raises(InputError, match=message):
        agreement(metrics, labelled)
