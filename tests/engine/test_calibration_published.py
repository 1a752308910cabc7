"""Published measurements become points; what is not understood is refused by name."""

from pathlib import Path

import numpy as np
import pytest

from services.domain.errors import ConfigurationInvalid
from services.domain.performance import PRESETS
from services.engine.calibration.fit import fit
from services.engine.calibration.points import decodes, prefills
from services.engine.calibration.published import read_published

MODEL = PRESETS["h200-llama-3.1-8b-fp8"]
KV_TOKENS = 945_029


def write_prefill(folder: Path) -> Path:
    """Write a prefill sweep as the peer does, ms."""
    tokens = np.array([100, 1000, 4000, 16_000])
    took = [
        MODEL.prompt_s(prompt_tokens=int(n), cached_tokens=0, step_tokens_max=10**6) * 1e3 for n in tokens
    ]
    file = folder / "prefill.npz"
    np.savez(file, prefill_isl=tokens, prefill_ttft=np.array(took))
    return file


def write_decode(folder: Path) -> Path:
    """Write a decode sweep as the peer does: share of the cache, context of each sequence, ms."""
    batches = [(1, 350), (200, 350), (2000, 350), (1, 8000), (20, 8000), (100, 8000)]
    took = [MODEL.decode_s(sequence_count=b, context_tokens=b * c) * 1e3 for b, c in batches]
    file = folder / "decode.npz"
    np.savez(
        file,
        x_kv_usage=np.array([b * c / KV_TOKENS for b, c in batches]),
        y_context_length=np.array([float(c) for _, c in batches]),
        z_itl=np.array(took),
        max_kv_tokens=np.array([KV_TOKENS]),
    )
    return file


def test_archives_of_a_sweep_are_read_as_one_engine(tmp_path: Path) -> None:
    """Batches follow from the share of the cache; those that the engine never ran at once are left out."""
    found = read_published([write_prefill(tmp_path), write_decode(tmp_path)])["archives"]
    assert [p.new_tokens for p in prefills(found.points)] == [100, 1000, 4000, 16_000]
    assert [p.sequence_count for p in decodes(found.points)] == [1, 200, 1, 20, 100]
    assert (found.left_out_count, found.kv_tokens) == (1, KV_TOKENS)
    result = fit(found.points, before=PRESETS["cpu-baton-tiny"], kv_tokens=found.kv_tokens).model
    assert result.prefill_attention_s == pytest.approx(MODEL.prefill_attention_s, rel=1e-6)
    assert result.decode_context_token_s == pytest.approx(MODEL.decode_context_token_s, rel=1e-6)
    more = read_published([write_decode(tmp_path)], sequences_max=2000)["archives"]
    assert (len(more.points), more.left_out_count) == (6, 0)


def test_a_table_holds_engines_by_name(tmp_path: Path) -> None:
    """Cached tokens are part of the length in such tables; context counts per sequence."""
    file = tmp_path / "grid.csv"
    file.write_text(
        "name,system,tp,kind,batch,isl,prefix,ctx,ms,mem_gb\n"
        "a,x,1,prefill,2,1000,400,,50.0,1\n"
        "b,x,1,decode,8,0,,512,12.5,1\n"
    )
    found = read_published([file])
    assert list(found) == ["a x 1", "b x 1"]
    (prompt,) = prefills(found["a x 1"].points)
    assert (prompt.prompt_count, prompt.new_tokens, prompt.cached_tokens) == (2, 600, 400)
    assert prompt.took_s == pytest.approx(0.05)
    (step,) = decodes(found["b x 1"].points)
    assert (step.sequence_count, step.context_tokens) == (8, 4096)


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.txt", "x", "neither"),
        ("a.csv", "kind,batch\nprefill,1\n", "isl"),
        ("a.csv", "kind,batch,isl,prefix,ctx,ms\nprefill,1,100,0,,-5\n", "-5"),
        ("a.csv", "kind,batch,isl,prefix,ctx,ms\nprefill,1,100,100,,5\n", "0 new"),
        ("a.csv", "kind,batch,isl,prefix,ctx,ms\nchew,1,100,0,,5\n", "chew"),
        ("a.csv", "kind,batch,isl,prefix,ctx,ms\ndecode,0,,,100,5\n", "without sequences"),
        ("a.csv", "kind,batch,isl,prefix,ctx,ms\nprefill,one,100,0,,5\n", "one"),
        ("a.csv", "kind,batch,isl,prefix,ctx,ms\nprefill,1\n", "a.csv"),
        ("a.csv", "kind,batch,isl,prefix,ctx,ms\n", "no points"),
        ("a.npz", "no archive", "a.npz"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, name: str, text: str, word: str) -> None:
    """The message names the file or what is wrong in it."""
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigurationInvalid, match=word):
        read_published([file])


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    """Its arrays are named in the message; a missing file is named too."""
    file = tmp_path / "other.npz"
    np.savez(file, weights=np.ones(3))
    with pytest.raises(ConfigurationInvalid, match="weights"):
        read_published([file])
    with pytest.raises(ConfigurationInvalid, match=r"nowhere\.npz"):
        read_published([tmp_path / "nowhere.npz"])
