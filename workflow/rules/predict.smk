# Predict: prompt every class in every image of the test split, with the base and the fine-tuned
# model; on the valid split too, for thresholds; and out-of-distribution prompts, for forgetting.
#
# REQUIRED INPUTS
#   <results>/coco/{test,valid}.json
#   <results>/coco/manifest.json
#   base weights                              config key `weights`, for {model} = base
#   <results>/merge/sam3.pt                   for {model} = tuned
#   <results>/tiles/tiles.json                if images are seen in tiles
#
# Undeclared: <results>/predict/kept/, the earlier predictions.
#
# OUTPUTS, of which Snakemake sees links in <results>/predict/finished/ (see common.smk)
#   <results>/predict/{model}.json            COCO results on the test split
#   <results>/predict/{model}_valid.json      COCO results on the valid split
#   <results>/predict/{model}_ood.json        config key `evaluate: ood_prompts`, on test


rule predict_model:
    """Predict on the test split with one model: base or tuned."""
    input:
        manifest=rules.convert.output.manifest,
        coco=rules.convert.output.test,
        weights=predicting_weights,
        tiles=TILES,
    output:
        "<results>/predict/finished/{model}.json",
    log:
        "<logs>/predict_{model}.log",
    benchmark:
        "<benchmarks>/predict_{model}.tsv"
    conda:
        "../envs/segtune.yaml"
    # Half of a workstation with 16 cores, so that its two GPUs can work side by side.
    threads: 8
    resources:
        gpu=1,
        runtime=240,  # minutes
        slurm_extra=SIGNAL,
    params:
        folder=subpath(output[0], ancestor=2),
        name=subpath(output[0], basename=True),
        model=CONFIG.model,
        weights=lambda wildcards, input: (
            str(Path(input.weights).parents[1] / "sam3.pt")
            if wildcards.model == "tuned"
            else CONFIG.weights
        ),
        weights_digest=lambda wildcards: (
            "" if wildcards.model == "tuned" else WEIGHTS_DIGEST
        ),
        image_size=IMAGE_SIZE,
        tiles=tiles_argument,
        prompts="",
        settings=settings("predict"),
        code=code("predict"),
        keep=keep,
        link_script=link_script,
    message:
        "Predicting {output} with the {wildcards.model} model"
    # The number of processes is not a param, because it does not change the result; nor is
    # the number of earlier predictions to keep.
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} --torchrun -- \
            -m segtune.predict --coco {input.coco:q} {params.prompts} \
            --out {params.folder:q}/{params.name:q} --model {params.model:q} --weights {params.weights:q} \
            {params.image_size} {params.tiles} --settings {params.settings:q} --keep {params.keep} \
            2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


use rule predict_model as predict_valid with:
    input:
        manifest=rules.convert.output.manifest,
        coco=rules.convert.output.valid,
        weights=predicting_weights,
        tiles=TILES,
    output:
        "<results>/predict/finished/{model}_valid.json",
    log:
        "<logs>/predict_{model}_valid.log",
    benchmark:
        "<benchmarks>/predict_{model}_valid.tsv"


use rule predict_model as predict_ood with:
    output:
        "<results>/predict/finished/{model}_ood.json",
    log:
        "<logs>/predict_{model}_ood.log",
    benchmark:
        "<benchmarks>/predict_{model}_ood.tsv"
    params:
        prompts=lambda wildcards: OOD_PROMPTS,


# A rule with a wildcard cannot be a target by its name.
rule predict:
    """Predict with both models."""
    input:
        expand(
            rules.predict_model.output + rules.predict_valid.output + OOD,
            model=["base", "tuned"],
        ),


for model, weights in {"base": [], "tuned": rules.merge.output}.items():
    for name in ("predict_model", "predict_valid", "predict_ood"):
        forget_unless_whole(
            [*rules.convert.output, *(TILES if TILED else []), *weights],
            expand(getattr(rules, name).output, model=model),
        )
