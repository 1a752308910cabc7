"""The tiny model that Baton ships, so that a fresh clone prints words: where it lies and how it came to be.

Out: `model_path()`, a folder that vLLM loads as it is. Invariant: the folder holds a `LlamaForCausalLM`
checkpoint of at most 4 MB with its tokenizer and chat template, and needs no remote code. Not here:
loading it (an engine's work), rendering a chat (the gateway's).

How the weights were made: 2,400 steps of 4,096 tokens on two shared cores of a 2.5 GHz x86-64 server, about
75 minutes, with torch 2.13.0 for the CPU. They were trained in stages while the text was being written, so
the exact numbers cannot be made again: 1,300 steps from nothing (`--seed 7`), 700 steps at peak rates of
0.003 and 0.002 on revised text, 100 steps on story openings, and 300 steps on the text as it stands::

    python -m services.tinymodel.train --out A --steps 1300
    python -m services.tinymodel.train --start-from A --out B --steps 100 --peak 0.003 --openings 0.97
    python -m services.tinymodel.train --start-from B --out C --steps 300 --seed 9 --peak 0.002 --threads 1

are these stages in short. The last line is the stage that wrote `weights/`, with a final loss of 0.317 nats
per token; the sequence of three has not been run from nothing. The openings teach the model to take the
hero of a story from the question: without that stage it answers well but tells of whom it likes.

All text was written for this project (`stories.txt`, `questions.txt`, `phrases.txt` and the modules that draw
from them) and carries its licence, Apache-2.0; so do the weights.
"""

from pathlib import Path


def model_path() -> Path:
    """Return the folder with config, weights, tokenizer and chat template."""
    return Path(__file__).parent / "weights"
