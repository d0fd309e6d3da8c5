"""The explorer's replies are the numbers of the public functions, and its code gives them again."""

import json
import math
import sys

import pytest
import torch

import unpact_lens as ul
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError
from unpact_lens.explorer import ExplorerSession
from unpact_lens.explorer.request import LONGEST
from unpact_lens.explorer.widget import _widget_class
from unpact_lens.models.generate import generate_answers

PROMPT, ANSWER = "What is the opposite of hot?", " The other end is cold."
QUESTION = {"prompt": PROMPT, "answer": ANSWER}


@pytest.fixture(scope="module")
def models():
    """Load the embedded model, a noisy copy of it, and the retrained one."""
    before, after = (ul.load_model("builtin", wrap="auto") for _ in range(2))
    with torch.no_grad():
        for weight in after.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return {"before": before, "after": after, "control": ul.load_model("builtin-retrain", wrap="auto")}


@pytest.fixture(scope="module")
def session(models):
    return ExplorerSession(*models.values(), ul.load_benchmark("builtin"))


def data(session, **request):
    reply = json.loads(json.dumps(session.reply(request), allow_nan=False))
    assert "error" not in reply, reply
    return reply["data"]


def run(code, models):
    """Execute a piece of code that was copied, and return its names and the value of its last line."""
    *lines, last = code.strip().splitlines()
    space = dict(models)
    exec("\n".join(lines), space)
    return space, eval(last, space)


def close(found, expected):
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-4, atol=1e-5, check_dtype=False
    )


def test_setup_lists_models_facts_and_templates(session):
    found = data(session, view="setup")
    assert [m["role"] for m in found["models"]] == ["before", "after", "control"]
    assert len(found["facts"]) == len(ul.load_benchmark("builtin").all_items())
    assert [e["name"] for e in found["emphasis"]] == list(EMPHASIS)


def test_answers_and_log_probs_are_those_of_each_model(session, models):
    found = data(session, view="answer", **QUESTION)
    for row, model in zip(found["rows"], models.values(), strict=True):
        scores = ul.log_prob(model, PROMPT, ANSWER, per_token=True)
        close(row["per_token"], scores)
        assert row["log_prob"] == pytest.approx(float(scores.mean()), rel=1e-4)
        assert row["probability"] == pytest.approx(math.exp(float(scores.sum())), rel=1e-3)
        assert row["said"] == generate_answers(model, [PROMPT])[0]
    assert found["rows"][0]["right"]
    _, (said, scores) = run(found["code"], models)
    for row in found["rows"]:
        assert row["said"] == said[row["role"]]
        close(row["per_token"], scores[row["role"]])


def test_an_empty_answer_stands_for_the_original_models_own(session, models):
    found = data(session, view="answer", prompt=PROMPT)
    assert found["own"]
    assert found["answer"] == generate_answers(models["before"], [PROMPT])[0]


def test_contributions_are_those_of_attribute_and_of_the_code(session, models):
    found = data(session, view="tokens", **QUESTION)
    for role in ("before", "after"):
        close(found[role], ul.attribute(models[role], PROMPT, ANSWER).per_answer_token)
    space, _ = run(found["code"], models)
    close(found["before"], space["original"])
    close(found["after"], space["unlearned"])
    assert found["words"] == ["What", "is", "the", "opposite", "of", "hot"]
    assert set(found["key_words"]) <= set(found["words"])


@pytest.mark.parametrize("column", [None, 0, 2])
@pytest.mark.parametrize("source", [None, 3])
def test_heads_are_those_of_decompose_and_of_the_code(session, models, column, source):
    found = data(session, view="heads", **QUESTION, column=column, source=source)
    for role in ("before", "after"):
        values = ul.decompose(models[role], PROMPT, ANSWER, by="head" if source is None else "source").values
        values = values if source is None else values[:, :, source]
        close(found[role], values.mean(-1) if column is None else values[..., column])
    space, _ = run(found["code"], models)
    close(found["before"], space["original"])
    close(found["after"], space["unlearned"])


def test_a_head_and_its_split_and_patch_agree_with_the_code(session, models):
    at = {**QUESTION, "layer": 1, "head": 2}
    head = data(session, view="head", **at, column=1)
    space, _ = run(head["code"], models)
    close(head["before"], space["original"])
    close(head["after"], space["unlearned"])
    split = data(session, view="split", **at, column=1)
    space, _ = run(split["code"], models)
    close(split["values"], space["shares"])
    assert sum(split["values"]) == pytest.approx(split["after"] - split["before"], abs=1e-4)
    assert sum(head["after"]) == pytest.approx(split["after"], abs=1e-4)  # the embedded model has no value bias
    patch = data(session, view="patch", **at)
    _, value = run(patch["code"], models)
    close([row["log_prob"] for row in patch["rows"]], value)
    whole = ul.comparison.patch(models["before"], models["after"], PROMPT, ANSWER, what="head")
    assert patch["rows"][1]["log_prob"] == pytest.approx(float(whole.log_prob[1, 2]), abs=1e-4)


def test_emphasis_and_prefill_are_tried_on_every_model(session, models):
    tried = {"emphasis": "focus_list", "words": ["opposite", "hot"], "prefill": " The other end is"}
    found = data(session, view="try", **QUESTION, **tried)
    plain, other = found["rows"]
    assert (plain["prompt"], plain["scored"]) == (PROMPT, ANSWER)
    assert other["prompt"] == f"Focus on: opposite, hot. {PROMPT}"
    assert other["scored"] == " cold."
    assert not found["leaks"]
    assert [c["role"] for c in other["cells"]] == ["before", "after", "control"]
    _, (said, scores) = run(found["code"], models)
    for cell in other["cells"]:
        assert said[cell["role"]] == cell["said"]
        assert float(scores[cell["role"]]) == pytest.approx(cell["log_prob"], abs=1e-4)


def test_a_prefill_that_holds_the_fact_is_told(session):
    assert data(session, view="try", **QUESTION, prefill=" The other end is cold")["leaks"]


def test_nothing_tried_is_the_plain_prompt_alone(session):
    assert [row["name"] for row in data(session, view="try", **QUESTION)["rows"]] == ["plain prompt"]


def test_results_are_kept_until_a_weight_changes(models):
    session = ExplorerSession(models["before"], models["control"])
    first = data(session, view="heads", **QUESTION)
    kept = dict(session._results)
    data(session, view="head", **QUESTION, layer=0, head=1)
    assert session._results.keys() == kept.keys()
    weight = models["control"].W_E if hasattr(models["control"], "W_E") else next(models["control"].parameters())
    with torch.no_grad():
        before = weight.clone()
        weight.mul_(1.5)
    try:
        assert data(session, view="heads", **QUESTION)["after"] != first["after"]
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_facts_may_be_pairs_and_code_loads_named_models(models):
    session = ExplorerSession(
        models["before"], models["after"], facts=[(PROMPT, "cold")], sources={"before": "a", "after": "b"}
    )
    assert data(session, view="setup")["facts"][0]["answer"] == " cold"
    code = data(session, view="tokens", **QUESTION)["code"]
    assert "before = ul.load_model('a', wrap='auto')\nafter = ul.load_model('b', wrap='auto')" in code
    assert "control" not in code


@pytest.mark.parametrize(
    "prompt", ['<script>alert("1")</script>', "$x^2$ and `y`", "מהי הבירה של \u202eצרפת", 'a\'b\\n"""']
)
def test_any_text_travels_unchanged_and_in_code(session, models, prompt):
    found = data(session, view="tokens", prompt=prompt, answer=" no")
    space, _ = run(found["code"], models)
    assert space["prompt"] == prompt


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (None, "a request is a JSON object, not NoneType"),
        ({"view": "token"}, "unknown view 'token'; did you mean 'tokens'"),
        ({"view": "tokens", "prompt": 3}, "request field 'prompt': "),
        ({"view": "tokens", "x": 3}, "request field 'x': "),
        ({"view": "tokens", "prompt": " "}, "the prompt is empty"),
        ({"view": "tokens", "prompt": "a" * (LONGEST + 1)}, "request field 'prompt': "),
        ({"view": "tokens", "prompt": "a " * 9000, "answer": " b"}, "context"),
        ({"view": "tokens", "prompt": "\ud800", "answer": " b"}, ""),
        ({"view": "heads", **QUESTION, "column": 99}, "column=99; the answer has "),
        ({"view": "heads", **QUESTION, "source": 999}, "source=999; the input has "),
        ({"view": "head", **QUESTION, "layer": 9}, "no head L9H0; the models have 2 layers of 4 heads"),
        ({"view": "patch", **QUESTION, "head": 99}, "no head L0H99"),
        ({"view": "split", **QUESTION, "layer": -1}, "request field 'layer': "),
        ({"view": "try", **QUESTION, "emphasis": "focus"}, "unknown emphasis template 'focus'"),
        ({"view": "try", **QUESTION, "emphasis": "quotes", "words": ["cold"]}, "does not occur as a whole"),
        ({"view": "try", **QUESTION, "emphasis": "quotes"}, "needs at least one word"),
    ],
)
def test_a_wrong_request_gets_an_error_of_one_line(session, request_, message):
    reply = session.reply(request_)
    assert reply.keys() == {"error"}
    assert message in reply["error"]
    assert "\n" not in reply["error"]
    assert "internal error" not in reply["error"]


def test_models_that_cannot_be_compared_are_refused_at_once(models):
    from tests.conftest import tiny

    with pytest.raises(InputError, match=r"differ in shape|is a TransformerBridge"):
        ExplorerSession(models["before"], tiny())


def test_without_anywidget_the_error_says_how_to_get_it(models, monkeypatch):
    _widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(InputError, match=r'pip install "unpact-lens\[explore\]"'):
        ul.explore(models["before"], models["after"])


def test_the_widget_answers_messages(models):
    pytest.importorskip("anywidget")
    widget = ul.explore(models["before"], models["after"], facts=[(PROMPT, ANSWER)])
    sent = []
    widget.send = lambda content, buffers=None: sent.append(content)
    widget._handle_custom_msg({"id": "v-0", "request": {"view": "setup"}}, [])
    widget._handle_custom_msg({"id": "v-1", "request": {"view": "nothing"}}, [])
    assert sent[0]["id"] == "v-0"
    assert sent[0]["data"]["layers"] == 2
    assert "unknown view" in sent[1]["error"]
    assert "ExplorerWidget(ExplorerSession(" in repr(widget)
