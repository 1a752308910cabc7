"""Writes `services/wire/generated` from `proto/`: `python -m services.wire.generate [--check]`.

Comes in: every `.proto` file. Goes out: protobuf and gRPC modules with type stubs, whose imports start at
`services.wire.generated`, so that nothing named `baton` or `proto` stands at the top of the import path.
Invariant: equal input and equal tool versions give equal bytes; `--check` fails when they differ.
Not here: what the messages mean. Needs the `dev` extra (grpcio-tools, mypy-protobuf).
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROTO = REPOSITORY / "proto"
GENERATED = Path(__file__).resolve().parent / "generated"
PACKAGE = "services.wire.generated"

_ROOT_DOCSTRING = '"""Written by `python -m services.wire.generate` from `proto/`; not edited by hand."""\n'
_IMPORT = re.compile(r"^(\s*)(from|import) baton\.", re.MULTILINE)
_USE = re.compile(r"(?<![\w.\"'/])baton\.(?=[\w.]+_pb2\b)")
_PLUGINS = ("mypy", "mypy_grpc")


class GenerationFailed(RuntimeError):
    """The compiler refused the input; its own words are the message."""


def render(target: Path) -> None:
    """Generate everything into an empty or missing directory.

    Raises:
        GenerationFailed: a `.proto` file is wrong or a plugin is not installed.
    """
    target.mkdir(parents=True, exist_ok=True)
    sources = sorted(str(p.relative_to(PROTO)) for p in PROTO.rglob("*.proto"))
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin=protoc-gen-{p}={scripts / f'protoc-gen-{p}'}" for p in _PLUGINS]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", *_PLUGINS)]
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--proto_path={PROTO}",
        *plugins,
        *outputs,
        *sources,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise GenerationFailed(done.stderr.strip())
    for path in sorted(target.rglob("*.py*")):
        path.write_text(_root_imports(path.read_text()))
    for package in [target, *sorted(p for p in target.rglob("*") if p.is_dir())]:
        (package / "__init__.py").write_text(_ROOT_DOCSTRING)


def _root_imports(text: str) -> str:
    """Point imports of `baton...` modules, and uses of their full names, into our package."""
    return _USE.sub(f"{PACKAGE}.baton.", _IMPORT.sub(rf"\1\2 {PACKAGE}.baton.", text))


def stale_files() -> tuple[str, ...]:
    """Name the files, relative to the generated package, that differ from what `proto/` asks for.

    Raises:
        GenerationFailed: as `render`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "generated"
        render(fresh)
        wanted, present = _contents(fresh), _contents(GENERATED)
    return tuple(sorted(n for n in wanted.keys() | present.keys() if wanted.get(n) != present.get(n)))


def _contents(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def main(arguments: list[str]) -> int:
    """Rewrite the generated package, or with `--check` only say whether that would change it."""
    if arguments == ["--check"]:
        stale = stale_files()
        if stale:
            sys.stderr.write(f"not what proto/ asks for (run `make proto`): {', '.join(stale)}\n")
        return 1 if stale else 0
    if arguments:
        sys.stderr.write("usage: python -m services.wire.generate [--check]\n")
        return 2
    with tempfile.TemporaryDirectory(dir=GENERATED.parent) as scratch:
        fresh = Path(scratch) / "generated"
        render(fresh)
        if GENERATED.exists():
            shutil.rmtree(GENERATED)
        fresh.rename(GENERATED)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
