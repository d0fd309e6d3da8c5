"""Compare answer metrics with hand-made labels, on the labelled pairs that ship with the library.

    python experiments/where-rouge-l-fails/run.py

The script writes results.md beside this file. It needs no model except the sentence embeddings of `[semantic]`.
"""

import sys
from pathlib import Path

import unpact_lens as ul
from unpact_lens.text_tables import to_markdown

if {"-h", "--help"} & set(sys.argv[1:]):
    print((__doc__ or "").strip())
    sys.exit(0)
result = ul.evaluation.agreement()
parts = [
    "## Each metric\n",
    to_markdown(result.to_frame().set_index("metric")),
    "\n## Accuracy by case\n",
    to_markdown(result.by_case()),
    "\n## The pairs that ROUGE-L gets wrong\n",
    to_markdown(result.failures("rouge_l")),
]
(Path(__file__).parent / "results.md").write_text("\n".join(parts), encoding="utf-8")
