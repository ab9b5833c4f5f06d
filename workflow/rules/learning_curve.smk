# Learning curve: would more data help? Only where it is asked for:
#   snakemake --cores all --resources gpu=2 -- learning_curve
# It trains twice more, on a quarter and on half of the training images.
#
# REQUIRED INPUTS
#   as of train, and <results>/train/adapter/
#
# OUTPUTS
#   <results>/learning_curve/learning_curve.json
#   <results>/learning_curve/learning_curve.html
#   <results>/learning_curve/{share}/    the data and the adapter of each training

SHARES = ["0.25", "0.5"]


rule subset:
    """Take a share of the training split."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        manifest=rules.convert.output.manifest,
    output:
        train="<results>/learning_curve/{share}/coco/train.json",
        valid="<results>/learning_curve/{share}/coco/valid.json",
        manifest="<results>/learning_curve/{share}/coco/manifest.json",
    log:
        "<logs>/subset_{share}.log",
    conda:
        "../envs/segtune.yaml"
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output.manifest, parent=True),
        code=code("learning_curve_subset"),
    message:
        "Taking {wildcards.share} of the training images"
    shell:
        """
        python3 -m segtune.learning_curve_subset --coco {params.coco:q} --share {wildcards.share} \
            --out {params.out:q} 2>&1 | tee -i {log:q}
        """


use rule train as train_share with:
    input:
        rules.subset.output.train,
        rules.subset.output.valid,
        WEIGHTS_INPUT,
        manifest=rules.subset.output.manifest,
        report=rules.validate.output.json,
    output:
        config="<results>/learning_curve/{share}/train/adapter/adapter_config.json",
        tensors="<results>/learning_curve/{share}/train/adapter/adapter_model.safetensors",
        recipe="<results>/learning_curve/{share}/train/adapter/recipe.json",
        history="<results>/learning_curve/{share}/train/history.jsonl",
        summary="<results>/learning_curve/{share}/train/summary.html",
    log:
        "<logs>/train_{share}.log",
    benchmark:
        "<benchmarks>/train_{share}.tsv"
    params:
        settings=share_settings,
    message:
        "Training on {wildcards.share} of the images"


rule learning_curve:
    """Say whether more data would help."""
    input:
        coco=rules.convert.output.train,
        recipe=rules.train.output.recipe,
        shares_coco=expand(rules.subset.output.train, share=SHARES),
        shares_recipe=expand(rules.train_share.output.recipe, share=SHARES),
    output:
        json="<results>/learning_curve/learning_curve.json",
        html=report(
            "<results>/learning_curve/learning_curve.html",
            caption="../report/learning_curve.rst",
            category="Training",
        ),
    log:
        "<logs>/learning_curve.log",
    conda:
        "../envs/segtune.yaml"
    params:
        out=subpath(output.json, parent=True),
        runs=lambda wildcards, input: [
            f"--run {shlex.quote(str(Path(coco).parent))} {shlex.quote(str(Path(recipe).parent))}"
            for coco, recipe in zip(
                [input.coco, *input.shares_coco], [input.recipe, *input.shares_recipe]
            )
        ],
        code=code("learning_curve"),
    message:
        "Estimating what more data would bring"
    shell:
        """
        python3 -m segtune.learning_curve {params.runs} --out {params.out:q} \
            2>&1 | tee -i {log:q}
        """
