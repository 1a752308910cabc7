"""Train the tiny model and write its folder: `python -m services.tinymodel.train --out DIR`.

In: a seed and a number of steps. Out: `config.json`, `generation_config.json`, `model.safetensors`,
`tokenizer.json` and `tokenizer_config.json`, all that vLLM needs, plus progress lines with the loss.
Invariant: one seed, one step count and one torch build give the same text; no data is read but that of
this package. Not here: serving.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional

from services.tinymodel import corpus
from services.tinymodel.llama import Llama, Shape

BATCH_TOKENS = 4096
ROW_TOKENS = 512
LONG_ROW_TOKENS = 2048
LONG_ROWS_EVERY_STEPS = 8
"""One step in eight sees long rows, so that long prompts stay readable."""
LEARNING_RATE_END_FRAC = 0.02
WARMUP_STEPS = 60
LISTENING_WEIGHT = 0.1
TOKENIZER_DOCUMENTS = 8000


def train_tokenizer(seed: int, vocabulary_tokens: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer: every byte has a token, so every text survives the round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_tokens,
        special_tokens=list(corpus.SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = islice(corpus.documents(seed), TOKENIZER_DOCUMENTS)
    tokenizer.train_from_iterator((strip_marks(text) for text in texts), trainer)
    if tokenizer.get_vocab_size() != vocabulary_tokens:
        raise ValueError(f"the text gives {tokenizer.get_vocab_size()} tokens, not {vocabulary_tokens}")
    begin_id = tokenizer.token_to_id(corpus.BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{corpus.BEGIN} $A", special_tokens=[(corpus.BEGIN, begin_id)]
    )
    return tokenizer


def strip_marks(text: str) -> str:
    """Replace the special tokens of a document by line breaks."""
    for mark in corpus.SPECIAL_TOKENS:
        text = text.replace(mark, "\n")
    return text


def rows_of_tokens(tokenizer: Tokenizer, seed: int, opening_frac: float) -> Iterator[Tensor]:
    """Yield batches of token ids, shape (rows, row tokens + 1), cut from the stream of documents."""
    texts = corpus.documents(seed, opening_frac=opening_frac)
    pending: list[int] = []
    step = 0
    while True:
        is_long = step % LONG_ROWS_EVERY_STEPS == LONG_ROWS_EVERY_STEPS - 1
        row_tokens = LONG_ROW_TOKENS if is_long else ROW_TOKENS
        row_count = BATCH_TOKENS // row_tokens
        need = row_count * (row_tokens + 1)
        while len(pending) < need:
            encodings = tokenizer.encode_batch(list(islice(texts, 64)), add_special_tokens=False)
            pending += [token for encoding in encodings for token in encoding.ids]
        yield torch.tensor(pending[:need]).view(row_count, row_tokens + 1)
        pending = pending[need:]
        step += 1


def draw_positions(
    row_count: int, row_tokens: int, positions_tokens: int, generator: torch.Generator
) -> Tensor:
    """Draw positions of shape (rows, tokens): in half of the rows they jump ahead at up to two places.

    A jump lets the network meet distances far longer than its training rows, so that long prompts do not
    surprise it.
    """
    steps = torch.ones(row_count, row_tokens, dtype=torch.long)
    steps[:, 0] = 0
    for row in range(0, row_count, 2):
        for _ in range(2):
            place = int(torch.randint(1, row_tokens, (1,), generator=generator))
            jump = torch.randint(0, (positions_tokens - row_tokens) // 2, (1,), generator=generator)
            steps[row, place] += int(jump)
    return steps.cumsum(1)


def token_weights(rows: Tensor) -> Tensor:
    """Weigh the loss of each prediction in `rows`, which has the shape (rows, tokens + 1).

    What a user or a system message says next is hardly worth learning, and where a document breaks off there
    is nothing to learn. The speaker is known from the last mark in the row, and the ids of the marks are
    their places in `corpus.SPECIAL_TOKENS`.
    """
    token_ids, next_ids = rows[:, :-1], rows[:, 1:]
    is_mark = token_ids < len(corpus.SPECIAL_TOKENS)
    places = torch.arange(token_ids.shape[1]).expand_as(token_ids)
    last_place = torch.where(is_mark, places, 0).cummax(1).values
    last_mark = token_ids.gather(1, last_place)
    listens = [corpus.SPECIAL_TOKENS.index(corpus.MARK_OF_ROLE[role]) for role in ("system", "user")]
    weights = torch.where(torch.isin(last_mark, torch.tensor(listens)), LISTENING_WEIGHT, 1.0)
    begin, end = corpus.SPECIAL_TOKENS.index(corpus.BEGIN), corpus.SPECIAL_TOKENS.index(corpus.END)
    return weights.masked_fill((next_ids == begin) & (token_ids != end), 0.0)


def learning_rate(step: int, step_count: int, *, peak: float) -> float:
    """Return the learning rate: a linear warm-up to `peak`, then half a cosine."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * step / step_count))
    return peak * warmup * (LEARNING_RATE_END_FRAC + (1 - LEARNING_RATE_END_FRAC) * cosine)


def load_network(folder: Path, shape: Shape) -> Llama:
    """Read the weights of an earlier run."""
    network = Llama(shape)
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return network


def train(network: Llama, batches: Iterator[Tensor], *, seed: int, step_count: int, peak: float) -> None:
    """Train the network in place with AdamW and report the mean loss of each fifty steps."""
    generator = torch.Generator().manual_seed(seed)
    positions_tokens = network.model.shape.positions_tokens
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    started_s = time.monotonic()
    loss_sum = 0.0
    for step in range(step_count):
        rows = next(batches)
        positions = draw_positions(rows.shape[0], rows.shape[1] - 1, positions_tokens, generator)
        logits = network(rows[:, :-1], positions)
        losses = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        weights = token_weights(rows).flatten()
        loss = (losses * weights).sum() / weights.sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, step_count, peak=peak)
        optimizer.step()
        loss_sum += loss.item()
        if (step + 1) % 50 == 0:
            elapsed_s = time.monotonic() - started_s
            report(f"step {step + 1}/{step_count} loss {loss_sum / 50:.4f} {elapsed_s:.0f} s")
            loss_sum = 0.0


def write_folder(folder: Path, network: Llama, tokenizer: Tokenizer, shape: Shape) -> None:
    """Write the model folder; weights are rounded to bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in network.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = {
        "bos_token_id": tokenizer.token_to_id(corpus.BEGIN),
        "eos_token_id": tokenizer.token_to_id(corpus.END),
    }
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": shape.vocabulary_tokens,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head,
            "hidden_act": "silu",
            "max_position_embeddings": shape.positions_tokens,
            "rope_theta": shape.rope_theta,
            "rms_norm_eps": shape.norm_epsilon,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            **ends,
        },
    )
    write_json(folder / "generation_config.json", ends)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": shape.positions_tokens,
            "bos_token": corpus.BEGIN,
            "eos_token": corpus.END,
            "additional_special_tokens": list(corpus.MARK_OF_ROLE.values()),
            "clean_up_tokenization_spaces": False,
            "chat_template": corpus.CHAT_TEMPLATE,
        },
    )


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write `value` as readable JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def report(line: str) -> None:
    """Show a line of progress at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Parse the command line, train and write the folder."""
    parser = argparse.ArgumentParser(
        prog="python -m services.tinymodel.train", description="Train Baton's tiny model."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument(
        "--steps", type=int, default=1400, help="optimizer steps of 4096 tokens (default 1400)"
    )
    parser.add_argument("--seed", type=int, default=7, help="seed of the text and of the weights (default 7)")
    parser.add_argument("--peak", type=float, default=4e-3, help="highest learning rate (default 0.004)")
    parser.add_argument("--openings", type=float, default=0.4, help="share of short openings (default 0.4)")
    parser.add_argument("--start-from", type=Path, help="model folder to go on from, with its tokenizer")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    shape = Shape()
    if arguments.start_from is None:
        tokenizer = train_tokenizer(arguments.seed, shape.vocabulary_tokens)
        network = Llama(shape)
    else:
        tokenizer = Tokenizer.from_file(str(arguments.start_from / "tokenizer.json"))
        network = load_network(arguments.start_from, shape)
    batches = rows_of_tokens(tokenizer, arguments.seed + 1, arguments.openings)
    train(network, batches, seed=arguments.seed, step_count=arguments.steps, peak=arguments.peak)
    write_folder(arguments.out, network, tokenizer, shape)
    report(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
