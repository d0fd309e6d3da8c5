"""The tables of the experiments' pages equal the committed result files."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiments.audit.tables import table as audit_table
from experiments.candidates.same_settings import table as same_settings_table
from experiments.focus.focus_controls import focus_controls
from experiments.focus.focus_over_seeds import FOCUS_TABLES
from experiments.forgetting.destruction_figures import destruction_by_share, frontier, spared_bars
from experiments.meta.faithfulness_figure import faithfulness_figure
from experiments.meta.pages import caught_table, labels_table, scores_table
from experiments.recovery.method_by_probe import method_by_probe
from experiments.rehearsal.sizes import tables as sizes_tables
from experiments.rehearsal.subjects import table as subjects_table
from experiments.sensitivity.survival import survival_table
from experiments.sensitivity.survival_map import survival_map
from experiments.shared.experiment import Experiment, load_experiment
from experiments.shared.page_tables import read_block
from experiments.unseen.curve_figure import curve_figure
from unpact_lens.evaluation import published, to_markdown
from unpact_lens.study import by_probe, estimates, kinds_table, load_config
from unpact_lens.unlearning import METHODS

ROOT = Path(__file__).parents[1] / "experiments"
RESULTS = sorted(p for p in ROOT.glob("*/results*.csv") if p.parent.name != "defaults")  # its page has no such table
CONFIGS = sorted(ROOT.glob("*/config*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_configuration_is_valid(path):
    experiment = Experiment.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert len(experiment.study["seeds"]) >= 3
    for name in experiment.methods:
        assert name.removeprefix("lora_") in METHODS
    load_config({**experiment.study, "methods": [{"name": m} for m in experiment.methods]})


def tables(path, results):
    """Return the tables of a page by block, made from a results file."""
    name, folder = path.stem.removeprefix("results"), path.parent.name
    if folder == "focus":
        shown = {f"{block}{name}": table(results).set_index("model") for block, table in FOCUS_TABLES.items()}
        return {**shown, f"trained{name}": pd.read_csv(path.with_name(f"trained{name}.csv")).set_index("model")}
    if folder in ("dilemma", "candidates"):
        gaps, kinds = pd.read_csv(path.with_name(f"gaps{name}.csv")), path.with_name(f"kinds{name}.csv")
        shown = {n: estimates(f).set_index("method") for n, f in {"results": results, "gaps": gaps}.items()}
        if kinds.is_file():
            shown["kinds"] = kinds_table(pd.read_csv(kinds))
        return {f"{n}{name}": table for n, table in shown.items()}
    if folder == "rehearsal":
        gaps = pd.read_csv(path.with_name("gaps.csv"))
        arms = subjects_table(pd.read_csv(path.with_name("subjects.csv"))).set_index("rehearsed")
        shown = {n: estimates(f).set_index("method") for n, f in {"results": results, "gaps": gaps}.items()}
        names = ("smollm2", "smollm2-end-token")
        real = {n: estimates(pd.read_csv(path.with_name(f"{n}.csv"))).set_index("method") for n in names}
        real["smollm2-coverage"] = pd.read_csv(path.with_name("smollm2-coverage.csv")).set_index("arm")
        sizes = {n: t.set_index("model") for n, t in sizes_tables(pd.read_csv(path.with_name("sizes.csv"))).items()}
        return {**shown, "subjects": arms, **real, **sizes}
    if folder == "unseen":
        same = pd.read_csv(path.with_name("same-number.csv"))
        shown = {"curve": results, "same-number": same}
        return {n: estimates(f).set_index("method") for n, f in shown.items()}
    if folder == "meta":
        models = pd.read_csv(path.with_name("models.csv"))
        return {"scores": scores_table(results), "labels": labels_table(models), "caught": caught_table(models)}
    if folder == "sensitivity":
        return {f"survival{name}": survival_table(results).set_index("varied")}
    if folder == "tofu":
        return tofu_tables(path, results)
    if "probe" in results:
        return {f"excess{name}": by_probe(results, "excess").set_index("probe")}
    return {f"spared{name}": results.set_index("method")}


def tofu_tables(path, results):
    """Return the tables of TOFU's page by block."""

    def read(name):
        return pd.read_csv(path.with_name(f"{name}.csv"))

    def mean(frame):
        return frame.drop(columns=["seed", "stopped"], errors="ignore").groupby("method", sort=False).mean().round(4)

    return {
        "tofu": mean(results),
        "probes": by_probe(read("probes"), "excess").set_index("probe"),
        "dilemma": estimates(read("dilemma")).set_index("method"),
        "spared": read("spared").set_index("method"),
        "focus": mean(read("focus")),
    }


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_tables_equal_the_results(path):
    name = path.stem.removeprefix("results")
    for block, table in tables(path, pd.read_csv(path)).items():
        assert read_block(path.parent / "README.md", block) == to_markdown(table).strip(), block
    config = f"config{name}.yaml"
    assert load_experiment(next(p / config for p in (path.parent, ROOT / "recovery") if (p / config).is_file()))
    assert (path.parent / f"figure{name}.svg").is_file()


@pytest.mark.parametrize("name", ["muse-news", "muse-books", "tofu-forget10"])
def test_published_tables_equal_those_of_the_library(name):
    assert read_block(ROOT / "dilemma" / "README.md", name) == to_markdown(published(name).to_frame()).strip()


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/same-settings.csv")), ids=str)
def test_same_settings_table_holds_means_over_seeds(path):
    shown = same_settings_table(pd.read_csv(path)).set_index("method")
    assert read_block(path.with_name("README.md"), "same-settings") == to_markdown(shown).strip()


def test_tables_of_the_audits_equal_the_results():
    folder = ROOT / "audit"
    shown = {"smollm2": audit_table(pd.read_csv(folder / "smollm2.csv"))}
    shown["confusion-standard"] = pd.read_csv(folder / "confusion-standard.csv").set_index("knowledge")
    for block, table in shown.items():
        assert read_block(folder / "README.md", block) == to_markdown(table).strip()


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/depth.csv")), ids=str)
def test_depth_table_holds_means_over_seeds(path):
    rows = pd.read_csv(path, keep_default_na=False)
    means = rows.groupby(["variant", "method"], sort=False).mean(numeric_only=True).drop(columns="seed").reset_index()
    means = means.round(10)  # the last bit of a mean differs between versions of pandas
    assert read_block(path.parent / "README.md", "depth") == to_markdown(means.set_index("method")).strip()


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/tokens.csv")), ids=str)
def test_token_table_equals_the_results(path):
    table = to_markdown(pd.read_csv(path).set_index("class")).strip()
    assert read_block(path.parent / "README.md", "tokens") == table


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/shares.csv")), ids=str)
def test_share_table_equals_the_results(path):
    shown = pd.read_csv(path).drop(columns=["loss", "share", "pick", "seeds", "against"]).set_index("method")
    assert read_block(path.parent / "README.md", "shares") == to_markdown(shown).strip()
    assert path.with_suffix(".svg").is_file()


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*/parts.csv"), *ROOT.glob("*/rmu.csv")]), ids=str)
def test_tables_of_parts_and_rmu_equal_the_results(path):
    shown = pd.read_csv(path).drop(columns=["seeds", "against"]).set_index("method")
    assert read_block(path.parent / "README.md", path.stem) == to_markdown(shown).strip()


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/frontier-*.csv")), ids=str)
def test_frontier_table_equals_the_results(path):
    table = to_markdown(pd.read_csv(path).set_index("method")).strip()
    assert read_block(path.parent / "README.md", path.stem) == table
    assert path.with_suffix(".svg").is_file()


def test_every_picture_is_shown_by_its_page_and_none_needs_a_network():
    pictures = sorted(ROOT.glob("*/*.svg"))
    assert len(pictures) > 20
    for picture in pictures:
        page = (picture.parent / "README.md").read_text(encoding="utf-8")
        assert re.search(rf"!\[[^\]]{{40,}}\]\({re.escape(picture.name)}\)", page), picture
    assert not list(ROOT.glob("*/*.html"))


def drawn():
    """Return each picture that is drawn from a table alone, with a function that draws it."""
    made = {
        "forgetting/shares.svg": lambda: destruction_by_share(read("forgetting/shares.csv")),
        "forgetting/frontier-smollm2.svg": lambda: frontier(read("forgetting/frontier-smollm2.csv")),
        "meta/figure.svg": lambda: faithfulness_figure(read("meta/results.csv")),
        "unseen/figure.svg": lambda: curve_figure(read("unseen/results.csv")),
    }
    for name in ("", "-smollm2", "-gemma3-270m"):
        made[f"forgetting/figure{name}.svg"] = lambda n=name: spared_bars(read(f"forgetting/results{n}.csv"))
    for name in ("", "-smollm2"):
        made[f"sensitivity/figure{name}.svg"] = lambda n=name: survival_map(read(f"sensitivity/results{n}.csv"))
    for name in ("", "-smollm2", "-tofu"):
        made[f"focus/figure{name}.svg"] = lambda n=name: focus_controls(
            read(f"focus/results{n}.csv").fillna({"head": ""}), read(f"focus/trajectory{n}.csv")
        )
    for name in ("", "-answer-free", "-smollm2", "-smollm2-phrasings", "-gemma3-270m"):
        against = "wrong subject" if name[1:].startswith(("smollm2", "gemma3")) else "retrained model"
        made[f"recovery/figure{name}.svg"] = lambda n=name, a=against: method_by_probe(
            read(f"recovery/results{n}.csv"), title=f"Excess over the {a}"
        )
    return made


def read(name):
    return pd.read_csv(ROOT / name)


def words(svg):
    """Return the texts of a picture, which hold the numbers of a map and the names of all rows, methods and axes."""
    return sorted(node.text or "" for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))


@pytest.mark.parametrize("name", drawn())
def test_a_picture_shows_the_numbers_of_its_table(name):
    assert words((ROOT / name).read_text(encoding="utf-8")) == words(drawn()[name]().svg())
