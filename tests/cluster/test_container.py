"""The container has the packages of the lock, for the Python of the other environments."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def test_nothing_but_the_lock_is_installed() -> None:
    installed = re.findall(r"(?:pip|apt-get|apt|conda) install (.*)", DOCKERFILE)
    assert [line.split()[-2:] for line in installed] == [["-r", "/opt/segtune/requirements.lock"]]
    assert "COPY requirements.lock /opt/segtune/\n" in DOCKERFILE
    assert (ROOT / ".dockerignore").read_text("utf-8") == "*\n!requirements.lock\n"


def test_the_lock_is_exact_and_of_this_python() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[\w.-]+==\S+", line) for line in lines if line), lines
    [version] = re.findall(r"^FROM python:(\d+\.\d+)-", DOCKERFILE, re.M)
    environment = yaml.safe_load((ROOT / "workflow/envs/segtune.yaml").read_text("utf-8"))
    assert f"python={version}" in environment["dependencies"]


def test_the_workflow_and_its_documentation_name_one_image() -> None:
    [image] = re.findall(r'^container: "(.*)"$', (ROOT / "Snakefile").read_text("utf-8"), re.M)
    documentation = (ROOT / "docs/clusters.md").read_text("utf-8")
    assert f"apptainer build {image} " in documentation
