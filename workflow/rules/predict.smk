# Predict: prompt every class on every picture of the test split, before and after.
#
# REQUIRED INPUTS
#   <results>/coco/test.json
#   <results>/coco/manifest.json
#   base weights                      config key `weights`, for {model} = base
#   <results>/merge/sam3.pt           for {model} = tuned
#
# OUTPUTS
#   <results>/predict/{model}.json    COCO results, and what cgF1 needs


rule predict_model:
    """Predict on the test split with one model: base or tuned."""
    input:
        manifest=rules.convert.output.manifest,
        coco=rules.convert.output.test,
        weights=lambda wildcards: (
            rules.merge.output.weights if wildcards.model == "tuned" else WEIGHTS_INPUT
        ),
    output:
        "<results>/predict/{model}.json",
    log:
        "<logs>/predict_{model}.log",
    benchmark:
        "<benchmarks>/predict_{model}.tsv"
    conda:
        "../envs/segtune.yaml"
    # Half of a common workstation, so that its two GPUs can work side by side.
    threads: 8
    resources:
        gpu=1,
    params:
        model=CONFIG.model,
        weights=lambda wildcards, input: (
            input.weights if wildcards.model == "tuned" else CONFIG.weights
        ),
        settings=settings("predict"),
        code=code("predict"),
    message:
        "Predicting with the {wildcards.model} model"
    shell:
        """
        python3 -m segtune.distributed --devices {resources.gpu} -- \
            python3 -m segtune.predict --coco {input.coco:q} --out {output:q} \
            --model {params.model:q} --weights {params.weights:q} \
            --settings {params.settings:q} 2>&1 | tee -i {log:q}
        """


# A rule with a wildcard cannot be asked for by its name.
rule predict:
    """Predict on the test split with both models."""
    input:
        expand(rules.predict_model.output, model=["base", "tuned"]),
