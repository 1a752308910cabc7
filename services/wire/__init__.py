"""What crosses a process: generated protobuf code, the codec to and from domain values, subject names.

`codec` is the only place where domain values become bytes; `generated` is written by `generate`.
"""
