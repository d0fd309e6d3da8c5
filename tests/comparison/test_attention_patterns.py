"""The default heads are those that changed most, and their patterns are the models' own."""

import pytest
import torch

from tests.comparison.models import pair
from unpact_lens.comparison import attention_patterns, diff
from unpact_lens.errors import InputError
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2]
TOKENS = torch.tensor([(PROMPT + ANSWER)[:-1]])


def test_default_heads_are_the_most_changed_with_their_own_patterns(style):
    before, after = pair(style)
    found = attention_patterns(before, after, PROMPT, ANSWER, top=3)
    delta = diff(before, after, PROMPT, ANSWER, contributions=False, weights=False).delta_heads.mean(-1)
    assert found.delta.abs().tolist() == pytest.approx(delta.abs().flatten().sort(descending=True).values[:3].tolist())
    (_, old), (_, new) = before.run_with_cache(TOKENS), after.run_with_cache(TOKENS)
    for row, (layer, head) in enumerate(found.heads):
        assert found.delta[row] == delta[layer, head]
        torch.testing.assert_close(found.before[row], old["pattern", layer][0, head], atol=1e-12, rtol=0)
        torch.testing.assert_close(found.after[row], new["pattern", layer][0, head], atol=1e-12, rtol=0)


def test_chosen_heads_are_checked(tmp_path):
    before, after = pair()
    found = attention_patterns(before, after, PROMPT, ANSWER, heads=[(2, 1), (0, 0)])
    assert found.heads == ((2, 1), (0, 0))
    assert len(found.to_frame()) == 2 * 6
    assert load(save(found, tmp_path / "p")) == found
    with pytest.raises(InputError, match=r"head \(3, 0\) is not in the model: layers 0 to 2"):
        attention_patterns(before, after, PROMPT, ANSWER, heads=[(3, 0)])
    with pytest.raises(InputError, match="top=0"):
        attention_patterns(before, after, PROMPT, ANSWER, top=0)
