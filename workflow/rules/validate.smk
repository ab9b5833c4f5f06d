# Validate: refuse a dataset that would waste a training run.
#
# REQUIRED INPUTS
#   <results>/coco/{train,valid,test}.json
#   <results>/coco/manifest.json
#
# OUTPUTS
#   <results>/validate/report.json    the gate that train asks for
#   <results>/validate/report.html    the same, for people
#
# It fails when it finds errors, so that nothing later starts.


rule validate:
    """Check the splits, categories, masks and images; fail on errors."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        rules.convert.output.test,
        manifest=rules.convert.output.manifest,
    output:
        json="<results>/validate/report.json",
        html=report(
            "<results>/validate/report.html",
            caption="../report/validate.rst",
            category="Dataset",
        ),
    log:
        "<logs>/validate.log",
    benchmark:
        "<benchmarks>/validate.tsv"
    # A bad dataset should be known before the base model has predicted on it.
    priority: 1
    conda:
        "../envs/segtune.yaml"
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output.json, parent=True),
        settings=settings("validate"),
        code=code("validate"),
    message:
        "Validating {params.coco}"
    shell:
        """
        python3 -m segtune.validate --coco {params.coco:q} --out {params.out:q} \
            --settings {params.settings:q} 2>&1 | tee -i {log:q}
        """
