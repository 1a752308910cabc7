"""vLLM's KV events, told again in our hashes: both encodings, copies, scopes, lost ancestors."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from services.domain.blocks import (
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheScope,
    KvEvent,
    hash_blocks,
)
from services.engine.vllm.kv_events import KvLedger, parse_batch

SIZE = 4
TOKENS = list(range(16))
SCOPE = CacheScope(model="m")


def ledger() -> KvLedger:
    """An empty ledger."""
    return KvLedger(model="m", block_size_tokens=SIZE)


def stored(hashes: list[Any], tokens: list[int], *, parent: Any = None, **more: Any) -> dict[str, Any]:
    """A BlockStored event as vLLM 0.32 publishes it."""
    event = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens}
    return event | {"block_size": SIZE, "lora_id": None, "medium": "GPU", "lora_name": None, **more}


def batch(*events: Any) -> bytes:
    """A batch as it is published."""
    return msgspec.msgpack.encode([1.5, list(events), 0])


def fold(into: KvLedger, *events: Any) -> tuple[KvEvent, ...]:
    """Publish and fold one batch."""
    return into.fold(parse_batch(batch(*events)))


def hashes_of(tokens: Iterable[int], scope: CacheScope = SCOPE) -> tuple[BlockHash, ...]:
    """Our chain over the tokens."""
    return hash_blocks(tuple(tokens), block_size_tokens=SIZE, scope=scope)


@pytest.mark.parametrize(
    "names", [(11, 12, 13), (b"\x01" * 32, b"\x02" * 32, b"\x03" * 32)], ids=["int", "bytes"]
)
def test_chain_is_ours_whatever_the_engine_calls_it(names: tuple[Any, ...]) -> None:
    """Prompt blocks and a later child get the hashes that `hash_blocks` gives the whole text."""
    held = ledger()
    first = fold(held, stored(list(names[:2]), TOKENS[:8]))
    second = fold(held, stored([names[2]], TOKENS[8:12], parent=names[1]))
    ours = hashes_of(TOKENS[:12])
    assert first == (BlocksStored(parent=SCOPE.root(), hashes=ours[:2]),)
    assert second == (BlocksStored(parent=ours[1], hashes=ours[2:]),)


def test_array_encoding_means_the_same() -> None:
    """Older vLLM tags arrays by their first element and leaves trailing fields out."""
    old, new = ledger(), ledger()
    arrays = [
        ["BlockStored", [11, 12], None, TOKENS[:8], SIZE, None],
        ["BlockRemoved", [12]],
    ]
    said = fold(old, *arrays)
    assert said == fold(
        new, stored([11, 12], TOKENS[:8]), {"type": "BlockRemoved", "block_hashes": [12], "medium": "GPU"}
    )
    assert said[1] == BlocksRemoved(hashes=hashes_of(TOKENS[:8])[1:])
    assert fold(old, ["AllBlocksCleared"]) == (BlocksCleared(),)


def test_scopes_stay_apart() -> None:
    """Adapter and salt enter the root as they do in `CacheScope`; children inherit them by their parent."""
    held = ledger()
    scope = CacheScope(model="m", adapter="french", salt="tenant")
    (event,) = fold(
        held, stored([1, 2], TOKENS[:8], lora_name="french", extra_keys=[["french", "tenant"], ["french"]])
    )
    assert event == BlocksStored(parent=scope.root(), hashes=hashes_of(TOKENS[:8], scope))
    salted = CacheScope(model="m", salt="tenant")
    (event,) = fold(held, stored([3], TOKENS[:4], extra_keys=[["tenant"]]))
    assert event == BlocksStored(parent=salted.root(), hashes=hashes_of(TOKENS[:4], salted))


def test_block_is_gone_with_its_last_copy() -> None:
    """Two copies of a block are told once, and its removal when both are evicted."""
    held = ledger()
    removal = {"type": "BlockRemoved", "block_hashes": [11], "medium": "GPU", "group_idx": 0}
    assert len(fold(held, stored([11], TOKENS[:4]))) == 1
    assert fold(held, stored([11], TOKENS[:4])) == ()
    assert fold(held, removal) == ()
    assert fold(held, removal) == (BlocksRemoved(hashes=hashes_of(TOKENS[:4])),)
    assert len(held) == 0


def test_only_new_blocks_of_a_chain_are_told() -> None:
    """A second copy of the beginning does not hide the end, which hangs on the known parent."""
    held = ledger()
    fold(held, stored([11], TOKENS[:4]))
    ours = hashes_of(TOKENS[:12])
    assert fold(held, stored([11, 12, 13], TOKENS[:12])) == (BlocksStored(parent=ours[0], hashes=ours[1:]),)


def test_child_of_an_unknown_block_is_not_told() -> None:
    """After events were lost, what hangs on a forgotten block stays out; new roots come in."""
    held = ledger()
    fold(held, stored([11], TOKENS[:4]))
    assert held.forget() == (BlocksCleared(),)
    assert fold(held, stored([12], TOKENS[4:8], parent=11)) == ()
    assert held.unknown_parent_count == 1
    assert len(fold(held, stored([21], TOKENS[4:8]))) == 1


def test_what_our_hashes_cannot_name_is_left_out() -> None:
    """Multimodal inputs, other cache groups and other block sizes are not reported."""
    held = ledger()
    assert fold(held, stored([1], TOKENS[:4], extra_keys=[[["image", 0]]])) == ()
    assert fold(held, stored([2], TOKENS[:4], group_idx=1)) == ()
    assert fold(held, stored([3], TOKENS[:2], block_size=2)) == ()
    assert len(held) == 0


@pytest.mark.parametrize("payload", [b"", b"\xc1", batch({"type": "Unheard"}), batch(["Unheard"]), batch(7)])
def test_unreadable_batch_is_an_error(payload: bytes) -> None:
    """Nothing is guessed from what cannot be read."""
    with pytest.raises(ValueError):  # noqa: PT011  # msgspec's errors are ValueErrors of several kinds
        parse_batch(payload)
