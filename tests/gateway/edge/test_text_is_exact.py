"""Tokens to text, stop strings and pieces: pure, so proved with many inputs."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from services.domain.errors import EngineFailed, InternalFault, ServingError
from services.domain.ids import RequestId
from services.domain.stream import Delta, FinishReason, TokenLogprob
from services.gateway.edge.assets import ModelAssets
from services.gateway.edge.detokenizer import Detokenizer, WindowDetokenizer
from services.gateway.edge.sequence_text import Piece, SequenceText
from services.gateway.edge.stop_strings import StopMatcher
from services.gateway.edge.vocabulary import Vocabulary
from tests.gateway.edge.model_folder import write_model_folder


def stream(detokenizer: Detokenizer, token_ids: Sequence[int], cuts: Sequence[int] = ()) -> str:
    """Push tokens in runs that end at the cuts."""
    edges = [0, *sorted(c % (len(token_ids) + 1) for c in cuts), len(token_ids)]
    parts = [detokenizer.push(token_ids[a:b]) for a, b in itertools.pairwise(edges)]
    return "".join([*parts, detokenizer.flush()])


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> ModelAssets:
    """A byte-level model."""
    return ModelAssets.load(write_model_folder(tmp_path_factory.mktemp("words")))


@given(data=st.data())
def test_byte_level_text_equals_decoding_at_once(words: ModelAssets, data: st.DataObject) -> None:
    """Any ids, special and half characters included, in any runs: the text is that of one decoding."""
    ids = data.draw(st.lists(st.integers(0, words.vocabulary.size - 1), max_size=60))
    cuts = data.draw(st.lists(st.integers(0, 60), max_size=5))
    assert words.vocabulary.byte_level
    assert stream(words.vocabulary.detokenizer(), ids, cuts) == words.tokenizer.decode(ids)


@given(text=st.text(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_any_text_survives_its_tokens(words: ModelAssets, text: str, cuts: list[int]) -> None:
    """Text to tokens to text changes nothing, and what was shown never has half a character."""
    ids = words.tokenizer.encode(text, add_special_tokens=False).ids
    plain = [i for i in ids if words.vocabulary.token_text(i) not in ("<|begin|>", "<|end|>")]
    if plain == ids:
        assert stream(words.vocabulary.detokenizer(), ids, cuts) == text


def byte_fallback_tokenizer() -> Tokenizer:
    """A vocabulary in the manner of SentencePiece: words with a mark for the space, and raw bytes."""
    names = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581the", "\u2581hare", "s", "\u2581"]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


FALLBACK = byte_fallback_tokenizer()
CHARACTERS = st.one_of(
    st.sampled_from([[257], [258], [259], [260]]),
    st.characters(codec="utf-8").map(lambda c: [b + 1 for b in c.encode()]),
)


@given(parts=st.lists(CHARACTERS, max_size=40))
def test_byte_fallback_text_equals_decoding_at_once(parts: list[list[int]]) -> None:
    """Words and characters spelled in raw bytes: the text is that of one decoding, space by space."""
    ids = [i for part in parts for i in part]
    assert stream(WindowDetokenizer(FALLBACK, ()), ids, range(len(ids))) == FALLBACK.decode(ids)


@given(ids=st.lists(st.integers(0, 260), max_size=80))
def test_stray_bytes_are_shown_soon(ids: list[int]) -> None:
    """Whatever bytes a model writes, nothing raises and at most a few tokens with a text are held back."""
    detokenizer = WindowDetokenizer(FALLBACK, ())
    silent = 0
    for i in ids:
        has_text = FALLBACK.decode([i], skip_special_tokens=True) != ""
        silent = 0 if detokenizer.push([i]) else silent + has_text
        assert silent <= 8


def test_token_bytes_of_a_byte_fallback_vocabulary() -> None:
    """A raw byte is told as that byte, a word with its space."""
    vocabulary = Vocabulary(FALLBACK)
    assert not vocabulary.byte_level
    assert vocabulary.token_bytes(0xE2 + 1) == b"\xe2"
    assert vocabulary.token_text(257) == " the"


STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4)
PARTS = st.lists(st.text("ab\nc", max_size=5), max_size=30)


@given(stops=STOPS, parts=PARTS)
def test_output_ends_before_the_first_stop_string(stops: list[str], parts: list[str]) -> None:
    """However the text is cut, what is shown ends right before the first stop string, or is all of it."""
    whole = "".join(parts)
    matcher = StopMatcher(stops)
    shown = ""
    for part in parts:
        shown += matcher.push(part)
        assert not any(stop in shown for stop in stops)
        if matcher.found is not None:
            break
    ends = [at for stop in stops if (at := whole.find(stop)) >= 0]
    if matcher.found is None:
        assert not ends
        assert shown + matcher.flush() == whole
    else:
        assert whole.startswith(shown + matcher.found)
        seen_until = len(shown) + len(matcher.found)
        assert all(at >= len(shown) or at + 1 > seen_until for at in ends)


@given(stops=STOPS, parts=PARTS)
def test_no_more_is_held_than_may_be_a_stop_string(stops: list[str], parts: list[str]) -> None:
    """Text that cannot become a stop string is shown at once."""
    matcher = StopMatcher(stops)
    pushed = shown = ""
    for part in parts:
        pushed += part
        shown += matcher.push(part)
        if matcher.found is not None:
            return
        held = pushed[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)


def run(words: ModelAssets, text: str, *, finish: FinishReason, **options: object) -> list[Piece]:
    """Fold the tokens of a text, one delta each, until a piece finishes."""
    ids = words.tokenizer.encode(text).ids
    settings: dict[str, object] = {"stops": (), "min_tokens": 0, "reports_tokens": True}
    settings |= {"end_token_ids": words.end_token_ids}
    sequence = SequenceText(
        index=0,
        vocabulary=words.vocabulary,
        **(settings | options),  # type: ignore[arg-type]  # a test's own choice
    )
    pieces = []
    for at, i in enumerate(ids):
        last = at == len(ids) - 1
        delta = Delta(
            request_id=RequestId("r"),
            token_ids=(i,),
            logprobs=(TokenLogprob(token_id=i, logprob=-1.0),),
            finish=finish if last else None,
        )
        pieces.append(sequence.fold(delta))
        if pieces[-1].finish is not None:
            break
    return pieces


def test_the_end_token_is_counted_and_not_shown(words: ModelAssets) -> None:
    """The token that ended the sequence is no text, but it was written and is told."""
    pieces = run(words, "slowly<|end|>", finish=FinishReason.STOP)
    assert "".join(p.text for p in pieces) == "slowly"
    assert pieces[-1].finish == "stop"
    assert sum(p.output_tokens for p in pieces) == sum(len(p.tokens) for p in pieces)


def test_a_stop_token_of_the_caller_is_not_shown(words: ModelAssets) -> None:
    """A token named in stop_token_ids is left out of the text like the model's own."""
    last = words.tokenizer.encode("The hare ran").ids[-1]
    pieces = run(words, "The hare ran", finish=FinishReason.STOP, end_token_ids=frozenset({last}))
    assert "".join(p.text for p in pieces) + words.vocabulary.token_text(last) == "The hare ran"


def test_tokens_of_a_stop_string_are_not_told(words: ModelAssets) -> None:
    """Log-probabilities do not give away what the text holds back."""
    pieces = run(words, "The hare ran far ahead", finish=FinishReason.LENGTH, stops=("ran far",))
    text = "".join(p.text for p in pieces)
    told = b"".join(words.vocabulary.token_bytes(t.token_id) for p in pieces for t in p.tokens)
    assert text == "The hare "
    assert pieces[-1].finish == "stop"
    assert text.encode().startswith(told)


def test_stop_strings_wait_for_min_tokens(words: ModelAssets) -> None:
    """A stop string within the first min_tokens is text like any other."""
    text = "The hare ran The hare ran"
    early = run(words, text, finish=FinishReason.LENGTH, stops=("ran",))
    later = run(words, text, finish=FinishReason.LENGTH, stops=("ran",), min_tokens=len(early))
    assert "".join(p.text for p in early) == "The hare "
    assert "".join(p.text for p in later) == "The hare ran The hare "


@pytest.mark.parametrize(
    ("delta", "error"),
    [
        (
            Delta(
                request_id=RequestId("r"),
                finish=FinishReason.ERROR,
                error=EngineFailed(message="died", worker_id="w"),
            ),
            EngineFailed,
        ),
        (Delta(request_id=RequestId("r"), finish=FinishReason.ABORTED), InternalFault),
    ],
)
def test_a_failed_delta_raises(words: ModelAssets, delta: Delta, error: type[ServingError]) -> None:
    """A failure never looks like an end."""
    sequence = SequenceText(
        index=0,
        vocabulary=words.vocabulary,
        end_token_ids=(),
        stops=(),
        min_tokens=0,
        reports_tokens=False,
    )
    with pytest.raises(error):
        sequence.fold(delta)
