"""The committed protobuf code is what `proto/` says today."""

from services.wire import generate


def test_generated_code_is_fresh() -> None:
    """Nobody edits generated code and nobody forgets `make proto`: regenerating changes no byte."""
    assert not generate.stale_files()
