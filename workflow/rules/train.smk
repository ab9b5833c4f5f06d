# Train: fit LoRA adapters on the training split; choose the best epoch on the validation split.
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
#   <results>/train/valid_{base,best}.json    predictions on a few images of valid, before
#                                             training and at the best epoch
#   <results>/train/summary.html      the page of all this, made by its own rule
#
# Undeclared, so that Snakemake does not delete them when a run is interrupted:
# <results>/train/checkpoints/, from which the next run resumes,
# <results>/train/valid_images/ and <results>/train/tensorboard/.


rule train:
    """Train LoRA adapters, one process per GPU (or as many on the CPU)."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        WEIGHTS_INPUT,
        manifest=rules.convert.output.manifest,
        # The gate. Not ancient(): with it, Snakemake 9.27 overlooks changed params whenever
        # the job that makes this file runs as well.
        report=rules.validate.output,
    output:
        config="<results>/train/adapter/adapter_config.json",
        tensors="<results>/train/adapter/adapter_model.safetensors",
        recipe="<results>/train/adapter/recipe.json",
        history="<results>/train/history.jsonl",
        base="<results>/train/valid_base.json",
        best="<results>/train/valid_best.json",
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
        weights_digest=WEIGHTS_DIGEST,
        image_size=IMAGE_SIZE,
        settings=settings("train"),
        code=code("train"),
    message:
        "Training {params.model} on {resources.gpu} GPU(s), or on the CPU if there are none"
    # The number of processes and readers is not a param, because training must not be
    # repeated when only the number of GPUs has changed. With two processes, half of the
    # cores read images.
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} --torchrun -- \
            -m segtune.train --coco {params.coco:q} --report {input.report:q} \
            --out {params.out:q} --model {params.model:q} --weights {params.weights:q} \
            {params.image_size} --settings {params.settings:q} --workers $(({threads} / 4)) \
            2>&1 | tee -i {log:q}
        """


rule train_page:
    """Make the page of the training run."""
    input:
        rules.train.output.recipe,
        rules.train.output.base,
        rules.train.output.best,
        valid=rules.convert.output.valid,
        history=rules.train.output.history,
    output:
        report(
            "<results>/train/summary.html",
            caption="../report/train.rst",
            category="Training",
        ),
    log:
        "<logs>/train_page.log",
    conda:
        "../envs/segtune.yaml"
    params:
        train=subpath(input.history, parent=True),
        code=page_code("train_page"),
    message:
        "Writing {output}"
    shell:
        """
        python3 -m segtune.train_page --coco {input.valid:q} --train {params.train:q} \
            --out {output:q} 2>&1 | tee -i {log:q}
        """
