"""The images hold what the chart expects of them: paths, user, programs, health."""

import re
import subprocess

import pytest

from services.gateway.edge.settings import EdgeSettings
from services.runtime.probe import LIVE_PATH
from tests.helm.chart import VALUES, pods, rendered
from tests.helm.kubelet import MODEL_IN_IMAGE
from tests.house.tree import ROOT

IMAGES = ROOT / "helm" / "images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text(encoding="utf-8")
INSTALL = (IMAGES / "install.sh").read_text(encoding="utf-8")


def test_there_is_a_target_for_each_image_of_the_chart() -> None:
    """What values name under `images` can be built, by an install step of that name."""
    for target in ("control", "cpu", "gpu"):
        assert re.search(rf"^FROM base AS {target}$", DOCKERFILE, re.MULTILINE)
        assert f"install.sh {target} /opt/baton" in DOCKERFILE
        assert f"    {target})" in INSTALL


def test_images_run_as_the_user_that_pods_name() -> None:
    """Every target ends as a user without rights, with the id of the pods' security context."""
    user = {pod.template["spec"]["securityContext"]["runAsUser"] for pod in pods(rendered("laptop"))}
    (number,) = user
    assert f"useradd --uid {number} " in DOCKERFILE
    for stage in DOCKERFILE.split("\nFROM ")[1:]:
        users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
        assert not users or users[-1] == f"{number}:{number}", stage.splitlines()[0]


def test_the_model_stands_where_the_chart_looks() -> None:
    """The tiny model has one path in all images."""
    folder, _, name = MODEL_IN_IMAGE.rpartition("/models/")
    assert f"install.sh control {folder}\n" in DOCKERFILE
    assert f'"$folder/models/{name}"' in INSTALL


@pytest.mark.parametrize("name", VALUES)
def test_images_hold_every_program_that_pods_start(name: str) -> None:
    """Commands of containers and hooks come with the locked packages or with the system."""
    programs = set()
    for pod in pods(rendered(name)):
        for container in pod.containers:
            programs.add(container["command"][0])
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec")
            if hook is not None:
                programs.add(hook["command"][0])
    assert programs <= {"baton", "nats-server", "sh"}


def test_the_health_check_asks_where_programs_answer() -> None:
    """Each question is a liveness probe of the chart, port and path, but for that of a gateway without it."""
    asked = set(re.findall(r"127\.0\.0\.1:(\S+)\"", (IMAGES / "healthcheck.py").read_text(encoding="utf-8")))
    probes = set()
    for pod in pods(rendered("production")):
        for container in pod.template["spec"]["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            if ports:
                probe = container["livenessProbe"]["httpGet"]
                probes.add(f"{ports[probe['port']]}{probe['path']}")
    assert asked == probes | {f"{EdgeSettings().http_port}{LIVE_PATH}"}


@pytest.mark.parametrize("script", sorted(path.name for path in IMAGES.glob("*.sh")))
def test_scripts_can_be_read(script: str) -> None:
    """The shell finds no fault in their grammar, and each stops at the first failure."""
    done = subprocess.run(["bash", "-n", str(IMAGES / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "set -euo pipefail" in (IMAGES / script).read_text(encoding="utf-8")
