"""What inseq says of a model on disk, as JSON on the last line of stdout. Run in inseq's own environment.

`python inseq_peer.py DIRECTORY PROMPT ANSWER`. Scores are those of each prompt token towards each answer token, in
double precision; nothing here imports unpact_lens.
"""

import json
import sys

import inseq
import torch

STEPS = 20


def main(directory, prompt, answer):
    model = inseq.load_model(directory, "saliency", tokenizer=directory, model_kwargs={"dtype": torch.float64})
    found = {"dtype": str(model.model.dtype)}
    for method, pooled, options in (
        ("saliency", lambda v: v.norm(dim=-1), {"abs": False}),
        ("input_x_gradient", lambda v: v.sum(-1), {}),
        ("integrated_gradients", lambda v: v.sum(-1), {"n_steps": STEPS}),
    ):
        for target in ("logit", "probability"):
            out = model.attribute(
                prompt, prompt + answer, method=method, attributed_fn=target, show_progress=False, **options
            ).sequence_attributions[0]
            start = out.attr_pos_start
            found["ids"] = [t.id for t in out.target]
            found["start"] = start
            found[f"{method}/{target}"] = pooled(out.target_attributions.double())[:start].tolist()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
