# Evaluate: compare the fine-tuned model with the base model on the test split.
#
# REQUIRED INPUTS
#   <results>/coco/{test,valid}.json
#   <results>/predict/{base,tuned}.json
#   <results>/predict/{base,tuned}_valid.json
#   <results>/predict/{base,tuned}_ood.json        if there are `ood_prompts`
#
# OUTPUTS, of which Snakemake sees links in <results>/evaluate/finished/ (see common.smk)
#   <results>/evaluate/metrics.json
#   <results>/evaluate/per_class.csv
#   <results>/evaluate/report.html                 the page, made by its own rule


rule evaluate:
    """Compare zero-shot and fine-tuned predictions."""
    input:
        coco=rules.convert.output.test,
        base="<results>/predict/finished/base.json",
        tuned="<results>/predict/finished/tuned.json",
        valid=rules.convert.output.valid,
        base_valid="<results>/predict/finished/base_valid.json",
        tuned_valid="<results>/predict/finished/tuned_valid.json",
        ood=expand(OOD, model=["base", "tuned"]),
    output:
        metrics=report(
            "<results>/evaluate/finished/metrics.json",
            caption="../report/metrics.rst",
            category="Evaluation",
        ),
        per_class=report(
            "<results>/evaluate/finished/per_class.csv",
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
        out=subpath(output.metrics, ancestor=2),
        ood=ood_arguments,
        settings=settings("evaluate"),
        code=code("evaluate"),
        link_script=link_script,
    message:
        "Evaluating {input.base} and {input.tuned}"
    shell:
        """
        python3 -m segtune.evaluate --coco {input.coco:q} --base {input.base:q} \
            --tuned {input.tuned:q} --valid {input.valid:q} \
            --base-valid {input.base_valid:q} --tuned-valid {input.tuned_valid:q} \
            {params.ood} --out {params.out:q} --settings {params.settings:q} \
            2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule evaluate_page:
    """Make the page of the evaluation."""
    input:
        metrics=rules.evaluate.output.metrics,
        coco=rules.convert.output.test,
        valid=rules.convert.output.valid,
        base="<results>/predict/finished/base.json",
        tuned="<results>/predict/finished/tuned.json",
        strengths=STRENGTHS,
        parity=rules.merge.output.parity if STRENGTHS else [],
    output:
        report(
            "<results>/evaluate/finished/report.html",
            caption="../report/evaluate.rst",
            category="Evaluation",
        ),
    log:
        "<logs>/evaluate_page.log",
    conda:
        "../envs/segtune.yaml"
    params:
        out=subpath(output[0], ancestor=2),
        strengths=strength_arguments,
        code=page_code("evaluate_page"),
        link_script=link_script,
    message:
        "Writing {output}"
    shell:
        """
        python3 -m segtune.evaluate_page --metrics {input.metrics:q} --coco {input.coco:q} \
            --valid {input.valid:q} --base {input.base:q} --tuned {input.tuned:q} \
            {params.strengths} --out {params.out:q}/report.html 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


PREDICTIONS = expand(
    [
        *rules.predict_model.output,
        *rules.predict_valid.output,
        *(rules.predict_ood.output if OOD else []),
    ],
    model=["base", "tuned"],
)
forget_unless_whole([*rules.convert.output, *PREDICTIONS], rules.evaluate.output)
forget_unless_whole(rules.evaluate.output, rules.evaluate_page.output)
