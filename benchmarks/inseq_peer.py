"""Run inseq's occlusion in an environment that has inseq: `inseq_peer.py FOLDER PROMPT ANSWER THREADS`.

Load the model in FOLDER, attribute once for each line on stdin, and print `done`.
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
