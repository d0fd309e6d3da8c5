"""Measure which answer tokens carry the forget gradient and which of them damage retain facts.

    python -m experiments.forgetting.tokens

The command writes tokens.csv and the table `tokens` of README.md. The gradient is that of the original model, so there
is no seed.
"""

from pathlib import Path

import torch

import unpact_lens as ul
from experiments.forgetting.token_gradients import token_gradients
from experiments.shared.command_line import arguments
from experiments.shared.page_tables import fill_block
from unpact_lens.results import write_text
from unpact_lens.text_tables import to_markdown

arguments(__doc__)
torch.set_num_threads(1)
here = Path(__file__).parent
bench = ul.load_benchmark("builtin")
found = token_gradients(ul.load_model("builtin"), bench.forget, bench.kept)
write_text(here / "tokens.csv", found.to_csv(index=False, float_format="%.6g"))
fill_block(here / "README.md", "tokens", to_markdown(found.set_index("class")))
