"""The model folder is complete, small, and its weights are those that its config announces."""

import json
import struct
from pathlib import Path

from services.tinymodel import model_path

WEIGHTS_BYTES_MAX = 4_000_000


def read_json(name: str) -> dict[str, object]:
    """Read a JSON file of the model folder."""
    value = json.loads((model_path() / name).read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def read_tensor_table(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Read name, type and shape of each tensor from the head of a safetensors file (length, then JSON)."""
    with path.open("rb") as file:
        (head_bytes,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(head_bytes))
    head.pop("__metadata__", None)
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in head.items()}


def llama_tensor_shapes(config: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """List the tensors of a Llama with tied embeddings, as its config determines them."""

    def size(key: str) -> int:
        value = config[key]
        assert isinstance(value, int)
        return value

    hidden, intermediate = size("hidden_size"), size("intermediate_size")
    query = size("num_attention_heads") * size("head_dim")
    key_value = size("num_key_value_heads") * size("head_dim")
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (size("vocab_size"), hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(size("num_hidden_layers")):
        shapes |= {
            f"model.layers.{layer}.input_layernorm.weight": (hidden,),
            f"model.layers.{layer}.post_attention_layernorm.weight": (hidden,),
            f"model.layers.{layer}.self_attn.q_proj.weight": (query, hidden),
            f"model.layers.{layer}.self_attn.k_proj.weight": (key_value, hidden),
            f"model.layers.{layer}.self_attn.v_proj.weight": (key_value, hidden),
            f"model.layers.{layer}.self_attn.o_proj.weight": (hidden, query),
            f"model.layers.{layer}.mlp.gate_proj.weight": (intermediate, hidden),
            f"model.layers.{layer}.mlp.up_proj.weight": (intermediate, hidden),
            f"model.layers.{layer}.mlp.down_proj.weight": (hidden, intermediate),
        }
    return shapes


def test_the_folder_holds_exactly_the_files_that_an_engine_loads() -> None:
    """Nothing is missing and nothing else is shipped, in particular no code."""
    assert sorted(path.name for path in model_path().iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_weights_are_small() -> None:
    """The repository stays light: at most 4 MB of weights."""
    assert (model_path() / "model.safetensors").stat().st_size <= WEIGHTS_BYTES_MAX


def test_the_weights_are_those_of_the_config() -> None:
    """Every tensor that the config asks for is there, in bfloat16, with its shape, and no other is."""
    config = read_json("config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    expected = {name: ("BF16", shape) for name, shape in llama_tensor_shapes(config).items()}
    assert read_tensor_table(model_path() / "model.safetensors") == expected


def test_config_and_generation_config_agree_on_the_ends() -> None:
    """An answer ends at the same token whichever file an engine reads."""
    config, generation = read_json("config.json"), read_json("generation_config.json")
    assert (config["bos_token_id"], config["eos_token_id"]) == (0, 1)
    assert generation == {"bos_token_id": 0, "eos_token_id": 1}
