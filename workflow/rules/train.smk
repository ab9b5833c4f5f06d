# Train: fit LoRA adapters on the training split; choose the best epoch on the validation split.
#
# REQUIRED INPUTS
#   <results>/coco/{train,valid}.json, or those of <results>/tiles/ (see tile.smk)
#   <results>/coco/manifest.json, too
#   <results>/validate/report.json
#   base weights                      config key `weights`
#   <results>/features/index.json     with `cache_features`
#   suspected label errors            config key `train: exclude_issues`, if it is set
#
# OUTPUTS
#   <results>/train/adapter/          adapter_config.json, adapter_model.safetensors (PEFT's
#                                     format) and recipe.json
#   <results>/train/history.jsonl     one line per optimizer step and validation
#   <results>/train/valid_{base,best}.json    predictions on a few images of valid, before
#                                             training and at the best epoch
#   <results>/train/summary.html      the page of all this, made by its own rule
#
# Snakemake sees links to these files in <results>/train/finished/ (see common.smk). Undeclared, so
# that Snakemake does not delete them: <results>/train/kept/, the earlier trainings,
# <results>/train/checkpoints/, from which an interrupted run resumes,
# <results>/train/valid_images/ and <results>/train/tensorboard/.


rule train:
    """Train LoRA adapters, one process per GPU (or as many on the CPU)."""
    input:
        TRAINED.train,
        TRAINED.valid,
        WEIGHTS_INPUT,
        FEATURES,
        TILES,
        manifest=TRAINED.manifest,
        # The gate. Not ancient(): with it, Snakemake 9.27 overlooks changed params whenever
        # the job that makes this file runs as well.
        report=rules.validate.output,
    output:
        config="<results>/train/finished/adapter/adapter_config.json",
        tensors="<results>/train/finished/adapter/adapter_model.safetensors",
        recipe="<results>/train/finished/adapter/recipe.json",
        history="<results>/train/finished/history.jsonl",
        base="<results>/train/finished/valid_base.json",
        best="<results>/train/finished/valid_best.json",
    log:
        "<logs>/train.log",
    benchmark:
        "<benchmarks>/train.tsv"
    conda:
        "../envs/segtune.yaml"
    # More than a workstation has: Snakemake lowers it to --cores.
    threads: 64
    resources:
        gpu=TRAIN_GPUS,  # of all nodes together
        nodes=1,
        mem_mb=64000,  # per node
        runtime=1440,  # minutes
        slurm_extra=SIGNAL,
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output.history, ancestor=2),
        model=CONFIG.model,
        weights=CONFIG.weights,
        weights_digest=WEIGHTS_DIGEST,
        image_size=IMAGE_SIZE,
        settings=settings("train"),
        issues=EXCLUDED_DIGEST,
        code=code("train"),
        execution=execution,
        features=features_folder,
        validated=validated_folder,
        keep=keep,
        link_script=link_script,
        log_script=log_script,
    message:
        f"Training {CONFIG.model} for {CONFIG.train.epochs} epochs with learning rate "
        f"{CONFIG.train.learning_rate:g}, on {{resources.gpu}} GPU(s) or, without any, on the CPU"
    # The number of processes and readers is not a param, because training must not be
    # repeated when only the number of GPUs has changed; nor is the number of earlier
    # trainings to keep. With two processes, half of the cores read images. A run that was
    # interrupted, by a time limit for instance, continues in the same log.
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} --nodes {resources.nodes} --torchrun -- \
            -m segtune.train --coco {params.coco:q} --report {input.report:q} \
            --validated {params.validated:q} --out {params.out:q} --model {params.model:q} --weights {params.weights:q} \
            {params.image_size} --settings {params.settings:q} \
            --execution {params.execution:q} --features {params.features:q} --workers $(({threads} / 4)) \
            --keep {params.keep} 2>&1 \
            | sh {params.log_script:q} {log:q} {params.out:q}/checkpoints
        sh {params.link_script:q} {output:q}
        """


rule train_page:
    """Make the page of the training run."""
    input:
        rules.train.output.recipe,
        rules.train.output.base,
        rules.train.output.best,
        valid=TRAINED.valid,
        history=rules.train.output.history,
    output:
        report(
            "<results>/train/finished/summary.html",
            caption="../report/train.rst",
            category="Training",
        ),
    log:
        "<logs>/train_page.log",
    conda:
        "../envs/segtune.yaml"
    params:
        train=subpath(input.history, parent=True),
        out=subpath(output[0], ancestor=2),
        code=page_code("train_page"),
        link_script=link_script,
    message:
        "Writing {output}"
    shell:
        """
        python3 -m segtune.train_page --coco {input.valid:q} --train {params.train:q} \
            --out {params.out:q}/summary.html 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


forget_unless_whole([*WHOLE_IF_TRAINED, *rules.validate.output], rules.train.output)
forget_unless_whole(rules.train.output, rules.train_page.output)
