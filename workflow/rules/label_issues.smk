# Label issues: suspected label errors of all splits, and the corrected labels. Only on request:
#   snakemake --cores all --resources gpu=2 -- label_issues_page
#
# REQUIRED INPUTS
#   <results>/coco/{train,valid,test}.json
#   <results>/predict/tuned.json
#   <results>/predict/tuned_valid.json
#   <results>/merge/sam3.pt
#
# OUTPUTS, of which Snakemake sees links in <results>/label_issues/finished/ (see common.smk)
#   <results>/predict/tuned_train.json       COCO results on the train split
#   <results>/label_issues/issues.json
#   <results>/label_issues/patch/            for each split, the corrected labels as COCO
#   <results>/label_issues/report.html       the page, made by its own rule

PATCHES = expand(
    "<results>/label_issues/finished/patch/{split}/_annotations.coco.json",
    split=["train", "valid", "test"],
)


use rule predict_model as predict_train with:
    input:
        manifest=rules.convert.output.manifest,
        coco=rules.convert.output.train,
        weights=predicting_weights,
        tiles=TILES,
    output:
        "<results>/predict/finished/{model}_train.json",
    log:
        "<logs>/predict_{model}_train.log",
    benchmark:
        "<benchmarks>/predict_{model}_train.tsv"


rule label_issues:
    """List suspected label errors, and correct them in a copy of the labels."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        rules.convert.output.test,
        manifest=rules.convert.output.manifest,
        train="<results>/predict/finished/tuned_train.json",
        valid="<results>/predict/finished/tuned_valid.json",
        test="<results>/predict/finished/tuned.json",
    output:
        PATCHES,
        issues="<results>/label_issues/finished/issues.json",
    log:
        "<logs>/label_issues.log",
    benchmark:
        "<benchmarks>/label_issues.tsv"
    conda:
        "../envs/segtune.yaml"
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output.issues, ancestor=2),
        settings=settings("label_issues"),
        code=code("label_issues"),
        link_script=link_script,
    message:
        "Looking for label errors"
    shell:
        """
        python3 -m segtune.label_issues --coco {params.coco:q} --train {input.train:q} \
            --valid {input.valid:q} --test {input.test:q} --out {params.out:q} \
            --settings {params.settings:q} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule label_issues_page:
    """Make the page of the suspected label errors."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        rules.convert.output.test,
        manifest=rules.convert.output.manifest,
        issues=rules.label_issues.output.issues,
    output:
        report(
            "<results>/label_issues/finished/report.html",
            caption="../report/label_issues.rst",
            category="Dataset",
        ),
    log:
        "<logs>/label_issues_page.log",
    conda:
        "../envs/segtune.yaml"
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output[0], ancestor=2),
        code=page_code("label_issues_page"),
        link_script=link_script,
    message:
        "Writing {output}"
    shell:
        """
        python3 -m segtune.label_issues_page --coco {params.coco:q} --issues {input.issues:q} \
            --out {params.out:q}/report.html 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


TUNED_ON_TRAIN = expand(rules.predict_train.output, model="tuned")
forget_unless_whole([*rules.convert.output, *rules.merge.output], TUNED_ON_TRAIN)
forget_unless_whole(
    [*rules.convert.output, *PREDICTIONS, *TUNED_ON_TRAIN], rules.label_issues.output
)
forget_unless_whole(rules.label_issues.output, rules.label_issues_page.output)
