"""Ask why rehearsal helps: how many subjects, which subjects, and whether names that nobody has do as well.

    python -m experiments.rehearsal.subjects

All runs minimise NPO and a KL term on a rehearsed set, with the hyperparameters of `npo_self`. The command writes
subjects.csv and the table of README.md. Finished runs are in subjects.csv and are not run again.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import unpact_lens as ul
from experiments.shared.command_line import arguments
from experiments.shared.experiment import tuned_settings
from experiments.shared.page_tables import fill_block, mean_and_range
from unpact_lens.data.benchmark import QA
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
SUBJECTS = (12, 24, 48, 96)


def arms(model: HookedModel, bench: ul.Benchmark, seed: int) -> Iterator[tuple[str, Sequence[QA]]]:
    """Yield the name and the rehearsed set of each arm."""
    written = ul.unlearning.self_rehearsal(model, bench.forget, seed=seed, stop=bench.stop)
    names = list(dict.fromkeys(q.subject for q in written))
    unseen = {q.subject for q in bench.unseen}
    random.Random(f"subjects/{seed}").shuffle(names)
    yield "all subjects", written
    for n in SUBJECTS:
        yield f"{n} subjects", only(written, names[:n])
    yield "all but the measured subjects", only(written, set(names) - unseen)
    yield "the measured subjects", only(written, unseen)
    yield "names of nobody", renamed(model, bench, written, seed)
    yield "given retain facts", bench.retain


def only(written: Sequence[QA], names: Sequence[str] | set[str]) -> list[QA]:
    """Return the questions about these subjects."""
    wanted = set(names)
    return [q for q in written if q.subject in wanted]


def renamed(model: HookedModel, bench: ul.Benchmark, written: Sequence[QA], seed: int) -> list[QA]:
    """Ask the same questions about names that no author has and the model did not write, and let the model answer.

    The names recombine the first and last words of the written names.
    """
    names = list(dict.fromkeys(q.subject for q in written))
    taken = {q.subject for q in (*bench.forget, *bench.kept)} | set(names)
    pool = {f"{a.split()[0]} {b.split()[-1]}" for a in names for b in names} - taken
    drawn = random.Random(f"nobody/{seed}").sample(sorted(pool), len(names))
    new = dict(zip(names, drawn, strict=True))
    prompts = [q.prompt.replace(q.subject, new[q.subject]) for q in written]
    answers = generate_answers(model, prompts, stop=bench.stop)
    return [
        QA(prompt, answer, subject=new[q.subject], id=f"nobody/{i}")
        for i, (q, prompt, answer) in enumerate(zip(written, prompts, answers, strict=True))
        if answer.strip()
    ]


def measure(model: HookedModel, bench: ul.Benchmark, rehearsed: Sequence[QA], settings: Mapping[str, Any], seed: int):
    """Unlearn with a rehearsed set, and return F and D on unseen facts."""
    run = ul.unlearn(
        model, bench.forget, rehearsed, method="npo_klr", seed=seed, stop_at=0.02, progress=False, **settings
    )
    scores = ul.evaluate(run.model, bench, ["fact_span"], before=model)
    return {
        "subjects": len({q.subject for q in rehearsed}),
        "measured subjects among them": len({q.subject for q in rehearsed} & {q.subject for q in bench.unseen}),
        "steps": len(run.history.rows),
        "F": round(scores.forgetting.value, 4),
        "D_near": round(scores.destruction_near.value, 4),
        "D_far": round(scores.destruction_far.value, 4),
        "D_trained": round(scores.destruction_trained.value, 4),
    }


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each arm over the seeds, with the lowest and highest seed in brackets."""
    rows = []
    for arm, group in runs.groupby("arm", sort=False):
        row = {"rehearsed": arm, "seeds": len(group)}
        for column in ("subjects", "measured subjects among them", "steps"):
            row[column] = f"{group[column].mean():.0f}"
        for column in ("F", "D_near", "D_far"):
            row[column] = mean_and_range(group[column])
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    """Run all arms that are not in subjects.csv."""
    arguments(__doc__)
    torch.set_num_threads(1)
    settings = tuned_settings(HERE.parent / "settings-rehearsal.yaml")["npo_self"]
    model, bench = ul.load_model("builtin"), ul.load_benchmark("builtin")
    path = HERE / "subjects.csv"
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    for seed in SEEDS:
        for arm, rehearsed in arms(model, bench, seed):
            if any(row["arm"] == arm and row["seed"] == seed for row in rows):
                continue
            rows.append({"arm": arm, "seed": seed, **measure(model, bench, rehearsed, settings, seed)})
            write_text(path, pd.DataFrame(rows).to_csv(index=False))
            print(rows[-1], flush=True)
    fill_block(HERE / "README.md", "subjects", to_markdown(table(pd.DataFrame(rows)).set_index("rehearsed")))


if __name__ == "__main__":
    main()
