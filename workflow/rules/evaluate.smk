# Evaluate: compare the fine-tuned model with the base model on the test split.
#
# REQUIRED INPUTS
#   <results>/coco/{test,valid}.json
#   <results>/predict/{base,tuned}.json
#   <results>/predict/{base,tuned}_valid.json
#   <results>/predict/{base,tuned}_ood.json        if there are `ood_prompts`
#
# OUTPUTS
#   <results>/evaluate/metrics.json
#   <results>/evaluate/per_class.csv
#   <results>/evaluate/report.html                 the page, made by its own rule


rule evaluate:
    """Compare zero-shot and fine-tuned predictions."""
    input:
        coco=rules.convert.output.test,
        base="<results>/predict/base.json",
        tuned="<results>/predict/tuned.json",
        valid=rules.convert.output.valid,
        base_valid="<results>/predict/base_valid.json",
        tuned_valid="<results>/predict/tuned_valid.json",
        ood=expand(OOD, model=["base", "tuned"]),
    output:
        metrics=report(
            "<results>/evaluate/metrics.json",
            caption="../report/metrics.rst",
            category="Evaluation",
        ),
        per_class=report(
            "<results>/evaluate/per_class.csv",
            caption="../report/per_class.rst",
            category="Evaluation",
        ),
    log:
        "<logs>/evaluate.log",
    benchmark:
        "<benchmarks>/evaluate.tsv"
    conda:
        "../envs/segtune.yaml"
    params:
        out=subpath(output.metrics, parent=True),
        ood=ood_arguments,
        settings=settings("evaluate"),
        code=code("evaluate"),
    message:
        "Evaluating {input.base} and {input.tuned}"
    shell:
        """
        python3 -m segtune.evaluate --coco {input.coco:q} --base {input.base:q} \
            --tuned {input.tuned:q} --valid {input.valid:q} \
            --base-valid {input.base_valid:q} --tuned-valid {input.tuned_valid:q} \
            {params.ood} --out {params.out:q} --settings {params.settings:q} \
            2>&1 | tee -i {log:q}
        """


rule evaluate_page:
    """Make the page of the evaluation."""
    input:
        metrics=rules.evaluate.output.metrics,
        coco=rules.convert.output.test,
        valid=rules.convert.output.valid,
        base="<results>/predict/base.json",
        tuned="<results>/predict/tuned.json",
    output:
        report(
            "<results>/evaluate/report.html",
            caption="../report/evaluate.rst",
            category="Evaluation",
        ),
    log:
        "<logs>/evaluate_page.log",
    conda:
        "../envs/segtune.yaml"
    params:
        code=page_code("evaluate_page"),
    message:
        "Writing {output}"
    shell:
        """
        python3 -m segtune.evaluate_page --metrics {input.metrics:q} --coco {input.coco:q} \
            --valid {input.valid:q} --base {input.base:q} --tuned {input.tuned:q} \
            --out {output:q} 2>&1 | tee -i {log:q}
        """
