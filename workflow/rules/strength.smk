# Strength: score the adapter at several strengths, among which merge chooses. Only with
# `merge: {strength: auto}`.
#
# REQUIRED INPUTS
#   <results>/train/adapter/
#   <results>/coco/valid.json, or that of <results>/tiles/
#   base weights                      config key `weights`
#   generic images                    config key `merge: retain_images`, if it is set
#
# OUTPUTS, of which Snakemake sees a link in <results>/strength/finished/ (see common.smk)
#   <results>/strength/strength.json
#
# Undeclared: <results>/strength/drawn_images/, the generic images of the tiny model.


rule strength:
    """Score the adapter at several strengths, and measure what each retains."""
    input:
        rules.train.output.tensors,
        rules.train.output.recipe,
        WEIGHTS_INPUT,
        config=rules.train.output.config,
        manifest=TRAINED.manifest,
        coco=TRAINED.valid,
    output:
        "<results>/strength/finished/strength.json",
    log:
        "<logs>/strength.log",
    benchmark:
        "<benchmarks>/strength.tsv"
    conda:
        "../envs/segtune.yaml"
    # All of a workstation, as for train: nothing else waits for the GPUs meanwhile.
    threads: 64
    resources:
        gpu=TRAIN_GPUS,
        mem_mb=32000,
        runtime=720,  # minutes
        slurm_extra=SIGNAL,
    params:
        train=subpath(input.config, ancestor=3),
        out=subpath(output[0], ancestor=2),
        model=CONFIG.model,
        weights=CONFIG.weights,
        weights_digest=WEIGHTS_DIGEST,
        image_size=IMAGE_SIZE,
        prompts=lambda wildcards: OOD_PROMPTS if OOD else "",
        images=RETAIN_IMAGES,
        images_fingerprint=RETAIN_FINGERPRINT,
        select_by=CONFIG.train.select_by,
        settings=settings("predict"),
        code=code("strength"),
        link_script=link_script,
    message:
        "Scoring the adapter at several strengths"
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} --torchrun -- \
            -m segtune.strength --coco {input.coco:q} --adapter {params.train:q}/adapter \
            --out {params.out:q} {params.images} {params.prompts} --select-by {params.select_by} \
            --model {params.model:q} --weights {params.weights:q} {params.image_size} \
            --settings {params.settings:q} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


# What merge chooses from; nothing where the strength is a number.
STRENGTHS = rules.strength.output if CONFIG.merge.strength == "auto" else []

forget_unless_whole([*WHOLE_IF_TRAINED, *rules.train.output], rules.strength.output)
