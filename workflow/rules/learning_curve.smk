# Learning curve: would more data help? Only on request:
#   snakemake --cores all --resources gpu=2 -- learning_curve_page
# It trains twice more, on a quarter and on half of the training images.
#
# REQUIRED INPUTS
#   those of train, and <results>/train/adapter/
#
# OUTPUTS
#   <results>/learning_curve/learning_curve.json
#   <results>/learning_curve/learning_curve.html
#   <results>/learning_curve/{fraction}/    the data, the adapter and the page of each training run

FRACTIONS = ["0.25", "0.5"]


rule learning_curve_subset:
    """Take a fraction of the training split."""
    input:
        TRAINED.train,
        TRAINED.valid,
        manifest=TRAINED.manifest,
    output:
        train="<results>/learning_curve/{fraction}/coco/train.json",
        valid="<results>/learning_curve/{fraction}/coco/valid.json",
        manifest="<results>/learning_curve/{fraction}/coco/manifest.json",
    log:
        "<logs>/learning_curve_subset_{fraction}.log",
    conda:
        "../envs/segtune.yaml"
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output.manifest, parent=True),
        code=code("learning_curve_subset"),
    message:
        "Taking {wildcards.fraction} of the training images"
    shell:
        """
        python3 -m segtune.learning_curve_subset --coco {params.coco:q} \
            --fraction {wildcards.fraction} --out {params.out:q} 2>&1 | tee -i {log:q}
        """


use rule train as train_fraction with:
    input:
        rules.learning_curve_subset.output.train,
        rules.learning_curve_subset.output.valid,
        WEIGHTS_INPUT,
        FEATURES,
        manifest=rules.learning_curve_subset.output.manifest,
        report=rules.validate.output,
    output:
        config="<results>/learning_curve/{fraction}/train/finished/adapter/adapter_config.json",
        tensors="<results>/learning_curve/{fraction}/train/finished/adapter/adapter_model.safetensors",
        recipe="<results>/learning_curve/{fraction}/train/finished/adapter/recipe.json",
        history="<results>/learning_curve/{fraction}/train/finished/history.jsonl",
        base="<results>/learning_curve/{fraction}/train/finished/valid_base.json",
        best="<results>/learning_curve/{fraction}/train/finished/valid_best.json",
    log:
        "<logs>/train_{fraction}.log",
    benchmark:
        "<benchmarks>/train_{fraction}.tsv"
    params:
        settings=fraction_settings,
    message:
        "Training on {wildcards.fraction} of the images"


use rule train_page as train_fraction_page with:
    input:
        rules.train_fraction.output.recipe,
        rules.train_fraction.output.base,
        rules.train_fraction.output.best,
        valid=rules.learning_curve_subset.output.valid,
        history=rules.train_fraction.output.history,
    output:
        "<results>/learning_curve/{fraction}/train/finished/summary.html",
    log:
        "<logs>/train_page_{fraction}.log",


rule learning_curve:
    """Extrapolate to more data."""
    input:
        coco=TRAINED.train,
        recipe=rules.train.output.recipe,
        fraction_coco=expand(
            rules.learning_curve_subset.output.train, fraction=FRACTIONS
        ),
        fraction_recipe=expand(rules.train_fraction.output.recipe, fraction=FRACTIONS),
    output:
        "<results>/learning_curve/finished/learning_curve.json",
    log:
        "<logs>/learning_curve.log",
    conda:
        "../envs/segtune.yaml"
    params:
        out=subpath(output[0], ancestor=2),
        runs=lambda wildcards, input: [
            f"--run {shlex.quote(str(Path(coco).parent))} {shlex.quote(str(Path(recipe).parent))}"
            for coco, recipe in zip(
                [input.coco, *input.fraction_coco],
                [input.recipe, *input.fraction_recipe],
            )
        ],
        code=code("learning_curve"),
        link_script=link_script,
    message:
        "Estimating what more data would bring"
    shell:
        """
        python3 -m segtune.learning_curve {params.runs} --out {params.out:q} \
            2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule learning_curve_page:
    """Make the page of the learning curve, and those of its training runs."""
    input:
        expand(rules.train_fraction_page.output, fraction=FRACTIONS),
        curve=rules.learning_curve.output,
    output:
        report(
            "<results>/learning_curve/finished/learning_curve.html",
            caption="../report/learning_curve.rst",
            category="Training",
        ),
    log:
        "<logs>/learning_curve_page.log",
    conda:
        "../envs/segtune.yaml"
    params:
        out=subpath(output[0], ancestor=2),
        code=page_code("learning_curve_page"),
        link_script=link_script,
    message:
        "Writing {output}"
    shell:
        """
        python3 -m segtune.learning_curve_page --curve {input.curve:q} \
            --out {params.out:q}/learning_curve.html 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


# The subset is not a link, but made in a second.
for fraction in FRACTIONS:
    subset = expand(rules.learning_curve_subset.output, fraction=fraction)
    trained = expand(rules.train_fraction.output, fraction=fraction)
    page = expand(rules.train_fraction_page.output, fraction=fraction)
    forget_unless_whole(WHOLE_IF_TRAINED, subset)
    forget_unless_whole([*subset, *rules.validate.output], trained)
    forget_unless_whole(trained, page)

forget_unless_whole(
    [
        *rules.train.output,
        *expand(rules.train_fraction.output, fraction=FRACTIONS),
    ],
    rules.learning_curve.output,
)
forget_unless_whole(rules.learning_curve.output, rules.learning_curve_page.output)
