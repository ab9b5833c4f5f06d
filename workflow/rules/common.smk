# Shared by the other files here: the validated config, the params that decide what reruns,
# and the environment in which the stages start.

import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

SOURCE = str(Path(workflow.basedir) / "src")


def prepend(variable, path):
    """Put a path first in an environment variable that lists paths."""
    os.environ[variable] = os.pathsep.join(
        [path, *filter(None, [os.environ.get(variable)])]
    )


# This checkout's segtune is used, here and in the jobs, whichever one is installed and
# wherever `--directory` points; and by the interpreter that runs Snakemake.
sys.path.insert(0, SOURCE)
prepend("PYTHONPATH", SOURCE)
prepend("PATH", str(Path(sys.executable).parent))

from segtune.core.config import parse_config
from segtune.core.errors import SegtuneError, WeightsError
from segtune.core.fingerprints import (
    code_fingerprints,
    export_fingerprint,
    file_digest,
)
from segtune.download import is_remote, parse_address
from segtune.model.weight_files import TINY_WEIGHTS, weights_file


# Under `--directory` there may be no config of its own.
configfile: "config.yaml" if Path("config.yaml").exists() else f"{workflow.basedir}/config.yaml"


try:
    CONFIG = parse_config(config)
    REMOTE = is_remote(CONFIG.export) and parse_address(CONFIG.export)
    WEIGHTS = weights_file(CONFIG.model, CONFIG.weights)
    # The shipped weights lie in the package: their content counts, not where that lies.
    SHIPPED = WEIGHTS == TINY_WEIGHTS
    WEIGHTS_DIGEST = (
        file_digest(WEIGHTS, WeightsError, "Check `weights`") if SHIPPED else ""
    )
except SegtuneError as error:
    raise WorkflowError(str(error)) from None

# The user's own weights are an input like any other; those from the hub cannot be.
WEIGHTS_INPUT = [str(WEIGHTS)] if WEIGHTS and not SHIPPED else []

# Part of a command line, for the stages that read images.
IMAGE_SIZE = f"--image-size {CONFIG.image_size}" if CONFIG.image_size else ""

# Out-of-distribution prompts; without any, nothing is predicted for them.
OOD_PROMPTS = " ".join(["--prompt", *map(shlex.quote, CONFIG.evaluate.ood_prompts)])
OOD = ["<results>/predict/{model}_ood.json"] if CONFIG.evaluate.ood_prompts else []

# Snakemake considers existing results up to date when one of their inputs is missing, so a
# mistyped path would seem to work.
EXPORT_INPUT = [] if REMOTE else [CONFIG.export]
for setting, paths in {"export": EXPORT_INPUT, "weights": WEIGHTS_INPUT}.items():
    for path in paths:
        if not Path(path).exists():
            raise WorkflowError(f"config: {setting}: {path} does not exist")


pathvars:
    results=str(Path(CONFIG.results)),
    logs="<results>/logs",
    benchmarks="<results>/benchmarks",


wildcard_constraints:
    model="base|tuned",


def settings(stage):
    """A stage's settings, as one string.

    Snakemake compares params as a set without names. If settings were separate params, a
    change to a value that another setting has anyway would go unnoticed. It is a function
    because Snakemake would take the braces of a template for wildcards.
    """
    text = CONFIG.section_json(stage)
    return lambda wildcards: text


def fraction_settings(wildcards):
    """The train section for a fraction of the images: as many optimizer steps as with all."""
    rounds = round(1 / float(wildcards.fraction))
    changes = {
        name: getattr(CONFIG.train, name) * rounds
        for name in ("epochs", "validate_every")
    }
    train = CONFIG.train.model_copy(update=changes)
    return CONFIG.model_copy(update={"train": train}).section_json("train")


def code(stage):
    """`path@hash` of the code that a stage's results depend on.

    `segtune.launch` is left out: on which devices a stage runs does not change what it
    computes. So is the code of pages: editing it does not change a number.
    """
    return code_fingerprints(stage)


def page_code(command):
    """`path@hash` of the code that a page depends on."""
    return code_fingerprints(command, with_pages=True)


def predicting_weights(wildcards):
    """The file of the model that predicts; none for shipped weights and those from the hub."""
    return rules.merge.output.weights if wildcards.model == "tuned" else WEIGHTS_INPUT


def ood_arguments(wildcards, input):
    """The options of evaluate for predictions of out-of-distribution prompts, if any."""
    return " ".join(
        f"--{model}-ood {shlex.quote(path)}"
        for model, path in zip(["base", "tuned"], input.ood)
    )
