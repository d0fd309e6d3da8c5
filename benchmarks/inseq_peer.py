"""Inseq's occlusion, run by an environment that has inseq: `inseq_peer.py FOLDER PROMPT ANSWER THREADS`.

Loads the model in FOLDER, then attributes once for each line on stdin and prints `done`.
"""

import sys

import inseq
import torch


def main() -> None:
    folder, prompt, answer, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = inseq.load_model(folder, "occlusion")
    for _ in sys.stdin:
        model.attribute(prompt, f"{prompt} {answer}", show_progress=False, step_scores=["probability"])
        print("done", flush=True)


if __name__ == "__main__":
    main()
