"""Where answer metrics disagree with a reader, on the labelled pairs that ship with the library.

    python experiments/where-rouge-l-fails/run.py

Writes results.md beside this file. Needs no model but the sentence embeddings of `[semantic]`.
"""

from pathlib import Path

import unpact_lens as ul
from unpact_lens.evaluation import to_markdown

result = ul.agreement()
parts = [
    "## Each metric\n",
    to_markdown(result.to_frame().set_index("metric")),
    "\n## Accuracy by case\n",
    to_markdown(result.by_case()),
    "\n## The pairs that ROUGE-L gets wrong\n",
    to_markdown(result.failures("rouge_l")),
]
(Path(__file__).parent / "results.md").write_text("\n".join(parts), encoding="utf-8")
