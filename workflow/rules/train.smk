# Train: fit LoRA adapters on the training split; choose the best on the validation split.
#
# REQUIRED INPUTS
#   <results>/coco/{train,valid}.json
#   <results>/coco/manifest.json
#   <results>/validate/report.json
#   base weights                      config key `weights`
#
# OUTPUTS
#   <results>/train/adapter/          adapter_config.json, adapter_model.safetensors (PEFT's
#                                     format) and recipe.json
#   <results>/train/history.jsonl     one line per optimizer step and validation
#   <results>/train/summary.html      one page of it, for people
#
# Undeclared, so that Snakemake does not delete them when a run is interrupted:
# <results>/train/checkpoints/, from which the next run goes on,
# <results>/train/valid_images/ and <results>/train/tensorboard/.


rule train:
    """Train LoRA adapters, one process per GPU (or as many on the CPU)."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        WEIGHTS_INPUT,
        manifest=rules.convert.output.manifest,
        # The gate. Not ancient(): behind one, Snakemake 9.27 overlooks that params changed
        # as soon as the job before it is to run as well.
        report=rules.validate.output.json,
    output:
        config="<results>/train/adapter/adapter_config.json",
        tensors="<results>/train/adapter/adapter_model.safetensors",
        recipe="<results>/train/adapter/recipe.json",
        history="<results>/train/history.jsonl",
        summary=report(
            "<results>/train/summary.html",
            caption="../report/train.rst",
            category="Training",
        ),
    log:
        "<logs>/train.log",
    benchmark:
        "<benchmarks>/train.tsv"
    conda:
        "../envs/segtune.yaml"
    # More than a workstation has: Snakemake lowers it to --cores.
    threads: 64
    resources:
        gpu=2,
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output.history, parent=True),
        model=CONFIG.model,
        weights=CONFIG.weights,
        image_size=IMAGE_SIZE,
        settings=settings("train"),
        code=code("train"),
    message:
        "Training {params.model} on {resources.gpu} GPU(s), or the CPU where there is none"
    # The number of processes and readers is no param, because training must not be repeated
    # where only the number of GPUs has changed. Half of the cores read images.
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} --torchrun -- \
            -m segtune.train --coco {params.coco:q} --report {input.report:q} \
            --out {params.out:q} --model {params.model:q} --weights {params.weights:q} \
            {params.image_size} --settings {params.settings:q} --workers $(({threads} / 4)) \
            2>&1 | tee -i {log:q}
        """
