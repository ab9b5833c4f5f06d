# Features: what the frozen vision blocks make of each view of the images, computed once for all
# epochs. Only with `cache_features` in the train section.
#
# REQUIRED INPUTS
#   <results>/coco/{train,valid}.json, or those of <results>/tiles/ (see tile.smk)
#   <results>/coco/manifest.json, too
#   <results>/validate/report.json
#   base weights                      config key `weights`
#
# OUTPUTS
#   <results>/features/index.json     what the features are of, and how many there are
#
# Snakemake sees a link to it in <results>/features/finished/ (see common.smk). The features
# themselves, many GB, lie beside it and are undeclared, so that a run that was interrupted resumes.


rule features:
    """Compute the features of frozen vision blocks, one process per GPU."""
    input:
        TRAINED.train,
        TRAINED.valid,
        WEIGHTS_INPUT,
        manifest=TRAINED.manifest,
        report=rules.validate.output,
    output:
        index="<results>/features/finished/index.json",
    log:
        "<logs>/features.log",
    benchmark:
        "<benchmarks>/features.tsv"
    conda:
        "../envs/segtune.yaml"
    threads: 64
    resources:
        gpu=TRAIN_GPUS,
        mem_mb=64000,
        runtime=720,  # minutes
        slurm_extra=SIGNAL,
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output.index, ancestor=2),
        model=CONFIG.model,
        weights=CONFIG.weights,
        weights_digest=WEIGHTS_DIGEST,
        image_size=IMAGE_SIZE,
        settings=feature_settings,
        code=code("features"),
        link_script=link_script,
    message:
        "Computing the features of frozen vision blocks"
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} --torchrun -- \
            -m segtune.features --coco {params.coco:q} --out {params.out:q} \
            --model {params.model:q} --weights {params.weights:q} {params.image_size} \
            --settings {params.settings:q} --workers $(({threads} / 4)) 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


# Of the rules that train; nothing where features are not cached.
FEATURES = [rules.features.output.index] if CONFIG.train.cache_features else []

forget_unless_whole([*WHOLE_IF_TRAINED, *rules.validate.output], rules.features.output)
