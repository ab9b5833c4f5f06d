# Validate: refuse a dataset that would waste a training run.
#
# REQUIRED INPUTS
#   <results>/coco/{train,valid,test}.json
#   <results>/coco/manifest.json
#
# OUTPUTS, of which Snakemake sees links in <results>/validate/finished/ (see common.smk)
#   <results>/validate/report.json    the gate, which train requires
#   <results>/validate/report.html    its page, made by its own rule
#
# It fails when it finds errors, so that nothing later starts; `severities` in the validate section
# of the config decide what an error is. Undeclared, so that Snakemake does
# not delete it then: <results>/validate/errors.html, the page of the errors.


rule validate:
    """Check the splits, categories, masks and images; fail on errors."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        rules.convert.output.test,
        manifest=rules.convert.output.manifest,
    output:
        "<results>/validate/finished/report.json",
    log:
        "<logs>/validate.log",
    benchmark:
        "<benchmarks>/validate.tsv"
    # A bad dataset should be noticed before the base model predicts on it.
    priority: 1
    # What it refuses, it would refuse again.
    retries: 0
    conda:
        "../envs/segtune.yaml"
    # More than a workstation has: Snakemake lowers it to --cores.
    threads: 64
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output[0], ancestor=2),
        model=CONFIG.model,
        image_size=IMAGE_SIZE,
        settings=gate_settings,
        tiles=settings("tiles"),
        code=code("validate"),
        link_script=link_script,
    message:
        "Validating {params.coco}"
    shell:
        """
        python3 -m segtune.validate --coco {params.coco:q} --out {params.out:q} \
            --model {params.model:q} {params.image_size} --settings {params.settings:q} \
            --tiles {params.tiles:q} --workers {threads} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule validate_page:
    """Make the page of the validation report."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        rules.convert.output.test,
        manifest=rules.convert.output.manifest,
        report=rules.validate.output,
    output:
        report(
            "<results>/validate/finished/report.html",
            caption="../report/validate.rst",
            category="Dataset",
        ),
    log:
        "<logs>/validate_page.log",
    conda:
        "../envs/segtune.yaml"
    params:
        # `max_examples` limits a list on the page: it must not replan what the gate guards.
        settings=settings("validate"),
        code=page_code("validate_page"),
        coco=subpath(input.manifest, parent=True),
        out=subpath(output[0], ancestor=2),
        link_script=link_script,
    message:
        "Writing {output}"
    shell:
        """
        python3 -m segtune.validate_page --coco {params.coco:q} --report {input.report:q} \
            --out {params.out:q}/report.html --settings {params.settings:q} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


forget_unless_whole(rules.convert.output, rules.validate.output)
forget_unless_whole(rules.validate.output, rules.validate_page.output)
