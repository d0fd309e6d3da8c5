"""Which answer tokens carry the forget gradient, and which of them hurt what is to be kept?

    python -m experiments.forgetting.tokens

Writes tokens.csv and the table `tokens` of README.md, at the model before unlearning: no seed enters.
"""

from pathlib import Path

import torch

import unpact_lens as ul
from experiments.forgetting import token_gradients
from experiments.shared.blocks import fill_block
from unpact_lens.evaluation import to_markdown
from unpact_lens.results import write_text

torch.set_num_threads(1)
here = Path(__file__).parent
bench = ul.load_benchmark("builtin")
found = token_gradients(ul.load_model("builtin"), bench.forget, bench.retain)
write_text(here / "tokens.csv", found.to_csv(index=False, float_format="%.6g"))
fill_block(here / "README.md", "tokens", to_markdown(found.set_index("class")))
