# Probe: which phrasings of the prompts does the base model understand best? Only on request:
#   snakemake --cores all --resources gpu=1 -- probe
# It is for you to read: nothing depends on it.
#
# REQUIRED INPUTS
#   <results>/coco/train.json
#   <results>/coco/manifest.json
#   base weights                      config key `weights`
#
# OUTPUTS, of which Snakemake sees a link in <results>/probe/finished/ (see common.smk)
#   <results>/probe/phrasings.json


rule probe:
    """Compare phrasings of the prompts by the base model's detections."""
    input:
        WEIGHTS_INPUT,
        manifest=rules.convert.output.manifest,
        coco=rules.convert.output.train,
    output:
        "<results>/probe/finished/phrasings.json",
    log:
        "<logs>/probe.log",
    benchmark:
        "<benchmarks>/probe.tsv"
    conda:
        "../envs/segtune.yaml"
    threads: 8
    resources:
        gpu=1,
        runtime=240,  # minutes
    params:
        out=subpath(output[0], ancestor=2),
        model=CONFIG.model,
        weights=CONFIG.weights,
        weights_digest=WEIGHTS_DIGEST,
        image_size=IMAGE_SIZE,
        settings=settings("probe"),
        convert=settings("convert"),
        predict=settings("predict"),
        code=code("probe"),
        link_script=link_script,
    message:
        "Comparing phrasings of the prompts"
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} -- \
            python3 -m segtune.probe --coco {input.coco:q} --out {params.out:q} \
            --model {params.model:q} --weights {params.weights:q} {params.image_size} \
            --settings {params.settings:q} --convert {params.convert:q} \
            --predict {params.predict:q} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


forget_unless_whole(rules.convert.output, rules.probe.output)
