"""The network of the tiny model in plain torch: a Llama as small as it gets.

In: token ids and their positions, both of shape (rows, tokens). Out: logits of shape (rows, tokens,
vocabulary). Invariant: `Llama.state_dict()` has the names and shapes that the Llama classes of vLLM and
transformers load (tied embeddings, so no `lm_head`), and computes the same function.
Not here: a KV cache or sampling; serving is an engine's work.

The parts are described in arXiv:2302.13971 (Llama), arXiv:2104.09864 (rotary positions) and arXiv:2305.13245
(grouped queries).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of the network; the defaults give 1.0 million parameters, 2 MB in bfloat16."""

    vocabulary_tokens: int = 2048
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 352
    positions_tokens: int = 8192
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5

    @property
    def head(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


class Norm(nn.Module):
    """Root mean square normalisation with a learned scale."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))
        self.epsilon = shape.norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Scale each vector of `x` to a mean square of one, then by the weights."""
        scaled: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.weight
        return scaled


class Attention(nn.Module):
    """Causal attention with rotary positions and fewer heads for keys and values than for queries."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head, shape.hidden, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Mix each token with the tokens before it; `x` has the shape (rows, tokens, hidden)."""
        rows, tokens, _ = x.shape
        query = self.q_proj(x).view(rows, tokens, self.shape.heads, self.shape.head).transpose(1, 2)
        key = self.k_proj(x).view(rows, tokens, self.shape.kv_heads, self.shape.head).transpose(1, 2)
        value = self.v_proj(x).view(rows, tokens, self.shape.kv_heads, self.shape.head).transpose(1, 2)
        share = self.shape.heads // self.shape.kv_heads
        mixed = functional.scaled_dot_product_attention(
            rotate(query, rotation),
            rotate(key, rotation).repeat_interleave(share, dim=1),
            value.repeat_interleave(share, dim=1),
            is_causal=True,
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, tokens, -1))
        return out


class GatedMlp(nn.Module):
    """Two layers with a SiLU gate."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token by itself."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention, then the gated layers, each around a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape)
        self.mlp = GatedMlp(shape)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Add what attention and the gated layers say to `x`."""
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Trunk(nn.Module):
    """Embedding, layers and the last norm: everything that a checkpoint names `model.*`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary_tokens, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)

    def forward(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Return the last hidden state of each token."""
        half = torch.arange(0, self.shape.head, 2, dtype=torch.float32) / self.shape.head
        angle = positions[:, None, :, None].float() * self.shape.rope_theta**-half
        rotation = (angle.cos().repeat(1, 1, 1, 2), angle.sin().repeat(1, 1, 1, 2))
        x = self.embed_tokens(token_ids)
        for layer in self.layers:
            x = layer(x, rotation)
        out: Tensor = self.norm(x)
        return out


class Llama(nn.Module):
    """The whole network; the embedding is also the output layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Trunk(shape)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                last_of_block = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 if last_of_block else shape.hidden**-0.5)

    def forward(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Return the logits of the token that follows each token."""
        return functional.linear(self.model(token_ids, positions), self.model.embed_tokens.weight)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (i, i + head/2) of `x` by the angle of its position."""
    cos, sin = rotation
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin
