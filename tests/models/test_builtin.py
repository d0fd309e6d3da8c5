"""The default model knows the forget set, the retrained model does not, and the files match their checksums."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from unpact_lens.data.builtin import load_builtin
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError
from unpact_lens.models.builtin import (
    ASSETS,
    MODELS,
    Recipe,
    build_tokenizer,
    builtin_directory,
    builtin_quality,
    load_builtin_model,
    rebuild,
    train_builtin,
    world_digest,
)
from unpact_lens.models.export import export_hf
from unpact_lens.models.load import load_model

BENCH = load_builtin()
QUICK = Recipe(n_layers=1, d_model=16, n_heads=2, d_mlp=16, steps=3, batch=8)


@pytest.fixture(scope="module")
def shipped():
    return tuple(load_builtin_model(name) for name in MODELS)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ASSETS, tmp_path / "assets"))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def check_qualities(found: dict[str, float], under_emphasis: float = 0.9) -> None:
    """Check the documented qualities of the original and the retrained model."""
    for group in ("forget", "near", "far"):
        for way in ("plain", "held_out", "deletion"):
            assert found[f"model/{group}/{way}"] >= 0.95, (group, way)
    for template in EMPHASIS:
        assert found[f"model/forget/{template}"] >= under_emphasis, template
        assert found[f"control/forget/{template}"] <= 0.06, template
    for way in ("plain", "held_out", "distractor", "prefixed"):
        assert found[f"control/forget/{way}"] <= 0.06, way
    for who in ("model", "control"):
        assert found[f"{who}/general/plain"] == 1.0
        assert found[f"{who}/unknown/plain"] >= 0.95
        assert found[f"{who}/unknown/held_out"] >= 0.95
    for group in ("near", "far"):
        assert found[f"control/{group}/held_out"] >= 0.95


def test_the_shipped_weights_have_the_qualities_on_a_fifth_of_the_questions(shipped) -> None:
    check_qualities(builtin_quality(*shipped, every=5))


def test_the_shipped_weights_know_the_world_that_the_code_describes() -> None:
    noted = json.loads((ASSETS / "recipe.json").read_text())
    assert noted["world"] == world_digest(0)
    assert noted["recipe"] == dataclasses.asdict(Recipe())


def test_the_shipped_models_are_small(shipped) -> None:
    for name, model in zip(MODELS, shipped, strict=True):
        assert sum(p.numel() for p in model.parameters()) <= 1_000_000
        assert (builtin_directory(name) / "model.safetensors").stat().st_size <= 5_000_000
    assert not [p for p in ASSETS.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]


@pytest.mark.parametrize("name", MODELS)
def test_both_wraps_and_plain_transformers_give_the_same_logits(name: str) -> None:
    ids = torch.tensor([AutoTokenizer.from_pretrained(builtin_directory(name))(BENCH.forget[0].prompt)["input_ids"]])
    plain = AutoModelForCausalLM.from_pretrained(builtin_directory(name), dtype=torch.float64).eval()
    with torch.inference_mode():
        expected = plain(ids).logits
        for wrap in ("hooked", "bridge"):
            found = load_model(name, wrap=wrap, dtype=torch.float64)(ids, return_type="logits")
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_an_export_of_the_embedded_model_is_the_directory_that_it_came_from(wrap: str, tmp_path: Path) -> None:
    export_hf(load_model("builtin", wrap=wrap), tmp_path / "out")
    ours, theirs = (load_file(d / "model.safetensors") for d in (tmp_path / "out", builtin_directory()))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_loaded_model_is_raw_in_eval_mode_and_says_what_its_tokenizer_does(shipped) -> None:
    model = shipped[0]
    assert not model.training
    assert model.cfg.normalization_type == "LN"
    assert model.cfg.default_prepend_bos
    tokenizer = model.tokenizer
    assert tokenizer("Tell me")["input_ids"][0] == tokenizer.bos_token_id
    assert model.to_tokens("Tell me").tolist() == [tokenizer("Tell me")["input_ids"]]
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert len(tokenizer) == model.cfg.d_vocab


def test_the_tokenizer_decodes_every_text_it_encodes(shipped) -> None:
    tokenizer = shipped[0].tokenizer
    assert 1000 <= len(tokenizer) <= 2000
    for text in ("Zürich — 北京 🙂\tx\n", " How do I translate this unusual paragraph?", "def f(x): return x ** 2"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_no_single_token_identifies_an_author(shipped) -> None:
    tokenizer = shipped[0].tokenizer
    authors = {q.subject for q in (*BENCH.forget, *BENCH.retain)}
    pieces = {name: tuple(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]) for name in authors}
    for name, own in pieces.items():
        assert len(own) >= 4
        for piece in own:
            assert any(piece in other for author, other in pieces.items() if author != name)


def test_the_answer_depends_on_every_part_of_the_name(shipped) -> None:
    # The mean over authors is tested: for a single author the rest of the name may suffice.
    model, tokenizer = shipped[0], shipped[0].tokenizer
    drops = [[], []]
    for q in BENCH.forget:
        for place, part in enumerate(q.subject.split()):
            scores = []
            for prompt in (q.prompt, q.prompt.replace(f" {part}", "", 1)):
                given = (
                    tokenizer(prompt)["input_ids"] + tokenizer(q.answer_prefix, add_special_tokens=False)["input_ids"]
                )
                first = tokenizer(f" {q.fact}", add_special_tokens=False)["input_ids"][0]
                with torch.inference_mode():
                    scores.append(model(torch.tensor([given]))[0, -1].log_softmax(-1)[first].item())
            drops[place].append(scores[0] - scores[1])
    assert all(sum(d) / len(d) > 1.0 for d in drops)


def test_loading_and_training_leave_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    load_builtin_model()
    train_builtin(True, dataclasses.replace(QUICK, vocabulary=1536, steps=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_loading_twice_gives_equal_and_independent_models() -> None:
    one, two = load_builtin_model(), load_builtin_model()
    assert all(torch.equal(w, weights(two)[n]) for n, w in weights(one).items())
    with torch.no_grad():
        one.W_U.zero_()
    assert two.W_U.any()


def test_the_same_recipe_gives_the_same_files(tmp_path: Path) -> None:
    told = []
    first = rebuild(lambda *update: told.append(update), QUICK, tmp_path / "one")
    rebuild(None, QUICK, tmp_path / "two")
    assert [p.name.split("-")[0] for p in sorted((tmp_path / "one").iterdir())] == ["recipe.json", "weights"]
    noted = [json.loads((tmp_path / d / "recipe.json").read_text()) for d in ("one", "two")]
    assert noted[0]["sha256"] == noted[1]["sha256"]
    assert told == [(name, step, 3) for name in MODELS for step in (1, 2, 3)]
    loaded = load_builtin_model("builtin-retrain", tmp_path / "one")
    assert all(torch.equal(w, weights(loaded)[n]) for n, w in weights(first[1]).items())


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    build_tokenizer(QUICK, tmp_path)
    one, two = (train_builtin(True, dataclasses.replace(QUICK, seed=s), tmp_path) for s in (0, 1))
    assert not torch.equal(one.W_E, two.W_E)


def test_an_interrupted_rebuild_keeps_the_old_files(copied: Path) -> None:
    old = files(copied)

    def interrupt(name: str, done: int, total: int) -> None:
        if name == "builtin-retrain":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(interrupt, QUICK, copied)
    assert files(copied) == old


@pytest.mark.parametrize(
    "step", ["os.replace", "unpact_lens.writing.flush", "unpact_lens.writing.remove_named", "shutil.rmtree"]
)
def test_a_rebuild_killed_between_two_writes_leaves_both_models_old_or_both_new(
    copied: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = [load_builtin_model(name, copied).W_E.shape for name in MODELS]

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step, killed)
        with pytest.raises(KeyboardInterrupt):
            rebuild(None, QUICK, copied)
    found = [load_builtin_model(name, copied).W_E.shape for name in MODELS]
    new = [torch.Size([QUICK.vocabulary, QUICK.d_model])] * 2
    assert found in (old, new)


def test_a_rebuild_removes_nothing_that_it_did_not_write(copied: Path) -> None:
    (copied / "weights-mine").mkdir()
    (copied / "weights-mine" / "data.csv").write_text("mine")
    rebuild(None, QUICK, copied)
    assert (copied / "weights-mine" / "data.csv").read_text() == "mine"
    assert len([p for p in copied.iterdir() if p.name.startswith("weights-")]) == 2


def files(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by its path."""
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_the_error_for_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown built-in model 'bultin'; did you mean 'builtin'"):
        load_builtin_model("bultin")


def test_errors_name_a_damaged_file_and_the_remedy(copied: Path) -> None:
    path = builtin_directory("builtin", copied) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match=r"builtin/model.safetensors is damaged .* `unpact builtin --rebuild`"):
        load_builtin_model("builtin", copied)
    assert load_builtin_model("builtin-retrain", copied)


def test_errors_name_a_missing_file_and_the_remedy(copied: Path) -> None:
    (builtin_directory("builtin", copied) / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer.json is missing; .* `unpact builtin --rebuild`"):
        load_builtin_model("builtin", copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "recipe.json is missing"), ("{", "is not a recipe"), ("[]", "is not a recipe"), ("{}", "is not a recipe")],
)
def test_errors_name_an_unreadable_recipe_and_the_remedy(copied: Path, content: str | None, message: str) -> None:
    path = copied / "recipe.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=rf"{message}; .* `unpact builtin --rebuild`"):
        load_builtin_model("builtin", copied)


def test_a_directory_that_cannot_be_written_to_is_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*file/assets"):
        rebuild(None, QUICK, tmp_path / "file" / "assets")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_recipe_still_reaches_the_qualities_on_every_question(tmp_path: Path) -> None:
    # Rounding depends on processor and thread count, and changes a few of the 96 facts. One training answered 85 under
    # the template `quotes`. The shipped weights must reach 0.9.
    check_qualities(builtin_quality(*rebuild(directory=tmp_path)), under_emphasis=0.85)
