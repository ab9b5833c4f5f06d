# Shared by the other files here: the validated config, the params that decide what reruns,
# and the environment in which the stages start.

import json
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
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

from segtune.checks.rules import require_known_rules
from segtune.core.config import parse_config, require_divisible
from segtune.core.errors import SegtuneError, WeightsError
from segtune.core.fingerprints import (
    code_fingerprints,
    export_fingerprint,
    file_digest,
)
from segtune.core.publishing import require_space
from segtune.dataset.image_names import names_fingerprint
from segtune.dataset.label_lists import read_index
from segtune.download import is_remote, parse_address
from segtune.model.weight_files import TINY_WEIGHTS, weights_file


# Under `--directory` there may be no config of its own.
configfile: "config.yaml" if Path("config.yaml").exists() else f"{workflow.basedir}/config.yaml"


try:
    CONFIG = parse_config(config)
    require_known_rules(CONFIG.validate_.severities)
    REMOTE = is_remote(CONFIG.export) and parse_address(CONFIG.export)
    WEIGHTS = weights_file(CONFIG.model, CONFIG.weights)
    # The shipped weights lie in the package: their content counts, not where that lies.
    SHIPPED = WEIGHTS == TINY_WEIGHTS
    WEIGHTS_DIGEST = (
        file_digest(WEIGHTS, WeightsError, "Check `weights`") if SHIPPED else ""
    )
except SegtuneError as error:
    raise WorkflowError(str(error)) from None

# Snakemake deletes the declared outputs of a job before it starts and when it fails. What took
# hours must survive that, so declared are links. <results>/merge/finished/sam3.pt, for instance,
# leads to <results>/merge/sam3.pt. A failed job loses only its links, and runs again; a file
# that was deleted by hand leaves a link to nothing, which is a missing output.
LINK_SCRIPT = f"{workflow.basedir}/workflow/scripts/finished.sh"

# The user's own weights are an input like any other; those from the hub cannot be.
WEIGHTS_INPUT = [str(WEIGHTS)] if WEIGHTS and not SHIPPED else []

# Part of a command line, for the stages that read images.
IMAGE_SIZE = f"--image-size {CONFIG.image_size}" if CONFIG.image_size else ""

# Out-of-distribution prompts; without any, nothing is predicted for them.
OOD_PROMPTS = " ".join(["--prompt", *map(shlex.quote, CONFIG.evaluate.ood_prompts)])
OOD = (
    ["<results>/predict/finished/{model}_ood.json"]
    if CONFIG.evaluate.ood_prompts
    else []
)

# Images on which it is measured what fine-tuning retains, and a fingerprint of them.
RETAIN_FOLDER = CONFIG.merge.retain_images
RETAIN_IMAGES = f"--retain-images {shlex.quote(RETAIN_FOLDER)}" if RETAIN_FOLDER else ""

# Snakemake considers existing results up to date when one of their inputs is missing, so a
# mistyped path would seem to work.
EXPORT_INPUT = [] if REMOTE else [CONFIG.export]
RETAIN_INPUT = [RETAIN_FOLDER] if RETAIN_FOLDER else []
LABEL_INPUT = [CONFIG.label.images] if CONFIG.label.images else []
EXCLUDED_INPUT = [CONFIG.train.exclude_issues] if CONFIG.train.exclude_issues else []
SUGGEST_INPUT = [CONFIG.suggest.images] if CONFIG.suggest.images else []
for setting, paths in {
    "export": EXPORT_INPUT,
    "weights": WEIGHTS_INPUT,
    "merge.retain_images": RETAIN_INPUT,
    "label.images": LABEL_INPUT,
    "train.exclude_issues": EXCLUDED_INPUT,
    "suggest.images": SUGGEST_INPUT,
}.items():
    for path in paths:
        if not Path(path).exists():
            raise WorkflowError(f"config: {setting}: {path} does not exist")

# What these results say about labels would decide the training that they come from.
for path in EXCLUDED_INPUT:
    if Path(path).resolve().is_relative_to(Path(CONFIG.results).resolve()):
        raise WorkflowError(
            f"config: train.exclude_issues: {path} is among the results of this run; copy it, "
            "or choose another `results` folder"
        )
# By content, as a param: a copy of the same file repeats nothing.
EXCLUDED_DIGEST = "".join(
    file_digest(Path(path), SegtuneError, "") for path in EXCLUDED_INPUT
)

RETAIN_FINGERPRINT = export_fingerprint(Path(RETAIN_FOLDER)) if RETAIN_FOLDER else ""


FULL_BYTES = 3_500_000_000  # of a file with the full model, about
TRAIN_GPUS = 2  # unless Snakemake allows fewer, or --set-resources says otherwise
# An option of sbatch for what saves when it is stopped: SIGTERM 5 minutes before the time limit.
SIGNAL = "--signal=TERM@300"


def processes_of(name):
    """How many processes a training rule will start, as far as that is a plain number."""
    requested = workflow.resource_settings.overwrite_resources.get(name, {})
    # Not get(), which Snakemake answers with a resource for a name that it does not know.
    limits = [
        r["gpu"].value for r in (requested, workflow.global_resources) if "gpu" in r
    ]
    numbers = [limit for limit in limits if isinstance(limit, int)]
    if "gpu" not in requested:
        numbers.append(TRAIN_GPUS)
    return max(1, min(numbers, default=TRAIN_GPUS))


def require_space_to_merge():
    """Refuse to begin what would end on a full disk."""
    if any(job.rule.name == "merge" for job in workflow.dag.needrun_jobs()):
        size = WEIGHTS.stat().st_size if WEIGHTS else FULL_BYTES
        try:
            require_space(Path(CONFIG.results), size if CONFIG.model == "full" else 0)
        except SegtuneError as error:
            raise WorkflowError(str(error)) from None


def stop_stages_on_sigterm():
    """Pass SIGTERM on to the stages, so that they can save what they have done.

    Snakemake itself would wait until its jobs end on their own. Their shells wait for the
    stages; `tee` gets no signal, because it still has to write what a stage says.
    """
    wait_for_jobs = signal.getsignal(signal.SIGTERM)

    def stop_stages(number, frame):
        for shell in psutil.Process().children():
            with suppress(psutil.Error):  # it has just ended
                for process in shell.children():
                    if process.name() != "tee":
                        process.terminate()
        wait_for_jobs(number, frame)

    signal.signal(signal.SIGTERM, stop_stages)


# What cannot work is refused here, before any job starts.
if workflow.is_main_process:
    for name in ("train", "train_fraction"):
        try:
            require_divisible(CONFIG.train, processes_of(name))
        except SegtuneError as error:
            raise WorkflowError(str(error)) from None


onstart:
    require_space_to_merge()
    stop_stages_on_sigterm()


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


def gate_settings(wildcards):
    """What of the validate section decides the report, and not how much a page shows of it."""
    return CONFIG.validate_.gate_json()


def feature_settings(wildcards):
    """What of the train section decides which features there are."""
    return CONFIG.feature_json()


def fraction_settings(wildcards):
    """The train section for a fraction of the images: as many optimizer steps as with all."""
    rounds = round(1 / float(wildcards.fraction))
    changes = {
        name: getattr(CONFIG.train, name) * rounds
        for name in ("epochs", "validate_every")
    }
    train = CONFIG.train.model_copy(update=changes)
    return CONFIG.model_copy(update={"train": train}).section_json("train")


def forget_unless_whole(inputs, outputs):
    """Remove the links that are a job's outputs, if one of them or of its inputs is missing.

    Snakemake looks for missing files only among those that a target needs, and takes a result
    for up to date although an input of it is gone, such as an output of a job that has failed.
    So what failed would not run again where what follows it is still there.
    """
    if workflow.is_main_process and not all(map(os.path.exists, [*inputs, *outputs])):
        for path in outputs:
            Path(path).unlink(missing_ok=True)


# Params that depend on input or output are not compared, and these must not be: a result stays
# up to date when the checkout or the features move, when more of the earlier results are to be
# kept, or when a training step is to take less memory.
def link_script(wildcards, output):
    return LINK_SCRIPT


def log_script(wildcards, output):
    return f"{workflow.basedir}/workflow/scripts/log.sh"


def keep(wildcards, output):
    return CONFIG.keep


def features_folder(wildcards, output):
    return Path(CONFIG.results) / "features"


def validated_folder(wildcards, output):
    """The dataset that the report is of; a fraction of it needs no report of its own."""
    return Path(CONFIG.results) / "coco"


def execution(wildcards, output):
    """Settings that change how a training step is computed, and not what it computes."""
    return CONFIG.execution_json()


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


def tiles_argument(wildcards, input):
    """The option of predict for images that are seen in tiles."""
    return f"--tiles {shlex.quote(str(input.tiles))}" if input.tiles else ""


def ood_arguments(wildcards, input):
    """The options of evaluate for predictions of out-of-distribution prompts, if any."""
    return " ".join(
        f"--{model}-ood {shlex.quote(path)}"
        for model, path in zip(["base", "tuned"], input.ood)
    )


def strength_argument(wildcards, input):
    """The option of merge and of the page for the strengths that were compared, if any."""
    return f"--strengths {shlex.quote(str(input.strengths))}" if input.strengths else ""


def strength_arguments(wildcards, input):
    """The same with the merge that chose one, for the page."""
    chosen = strength_argument(wildcards, input)
    return f"{chosen} --parity {shlex.quote(str(input.parity))}" if chosen else ""


def label_images(wildcards):
    """The folder of the images to label."""
    if not CONFIG.label.images:
        raise WorkflowError(
            "config: label.images: name the folder of the images to label"
        )
    return CONFIG.label.images


def label_fingerprint(wildcards):
    """Of the names of the images; nothing is listed unless labels are a target."""
    try:
        return names_fingerprint(Path(label_images(wildcards)), setting="label.images")
    except SegtuneError as error:
        raise WorkflowError(str(error)) from None


def label_predict_settings(wildcards):
    """The predict section without its threshold: each class has the one that was chosen for it."""
    values = CONFIG.predict.model_dump(mode="json", exclude={"confidence_threshold"})
    return json.dumps(values, sort_keys=True)


def label_shards(wildcards):
    """The labels of every list, once the images have been listed."""
    index = checkpoints.label_list.get().output[0]
    return label_outputs(Path(index))


def label_outputs(index):
    """The labels of every list that an index names."""
    try:
        shards = [listed.name for listed in read_index(index)]
    except SegtuneError:  # not listed yet
        shards = []
    return expand(rules.label_shard.output, shard=shards)


def suggest_images(wildcards):
    """The folder of the images among which to suggest."""
    if not CONFIG.suggest.images:
        raise WorkflowError(
            "config: suggest.images: name the folder of the images without labels"
        )
    return CONFIG.suggest.images


def suggest_fingerprint(wildcards):
    """Of the names of the images; nothing is listed unless suggestions are a target."""
    try:
        folder = Path(suggest_images(wildcards))
        return names_fingerprint(folder, setting="suggest.images")
    except SegtuneError as error:
        raise WorkflowError(str(error)) from None
