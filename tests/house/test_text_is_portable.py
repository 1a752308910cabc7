"""No file names a machine: neither its folders nor the hosts that packages come from."""

import re
from collections.abc import Iterator

import pytest

from tests.house.tree import ROOT, repository_files

# Folders that exist on one machine only. The look-behind lets `/usr/home/` and `network/` pass.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|work|home/\w+|Users/\w+|opt/\w*py\w*)/\S*")

# Written in two parts so that this file does not find itself.
HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("py" + "pi", "org"),
        ("python" + "hosted", "org"),
        ("download.py" + "torch", "org"),
        ("hugging" + "face", "co"),
        ("npm" + "js", "org"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("docker", "io"),
        ("nvcr", "io"),
        ("gcr", "io"),
        ("registry", "k8s", "io"),
    )
)
REGISTRY_HOST = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, HOSTS)) + r")\b", re.IGNORECASE)


def attachments(text: str) -> Iterator[str]:
    """Yield what ties a text to one machine or one registry."""
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern in (MACHINE_PATH, REGISTRY_HOST):
            for match in pattern.finditer(line):
                yield f"line {number}: {match[0]}"


def test_no_file_names_a_machine_or_a_registry() -> None:
    """A clone works anywhere: where things lie and come from is the installer's configuration."""
    found = []
    for path in repository_files():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data:
            found += [f"{path}, {fault}" for fault in attachments(data.decode("utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "cache: /" + "home/ann/models",
        "cd /" + "root/x",
        f"--index-url https://{HOSTS[0]}/simple",
        f"image: {HOSTS[5]}/someone/baton:1",
        f"image: eu.{HOSTS[9]}/someone/baton:1",
    ],
)
def test_an_attachment_is_found(text: str) -> None:
    """The rule can fail, for folders and for hosts."""
    assert len(list(attachments(text))) == 1


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8000/v1", "a network/work/flow", "/usr/lib", "/v1/models"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """The rule reports no loopback address and no path that every machine has."""
    assert not list(attachments(text))
