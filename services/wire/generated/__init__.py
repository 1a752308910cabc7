"""Written by `python -m services.wire.generate` from `proto/`; not edited by hand."""
