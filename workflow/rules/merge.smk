# Merge: fold the adapters into the base weights, and check that outputs stay the same.
#
# REQUIRED INPUTS
#   <results>/train/adapter/          adapter_config.json, adapter_model.safetensors,
#                                     recipe.json
#   base weights                      config key `weights`
#   <results>/coco/valid.json         two of its images; or those of <results>/tiles/
#   <results>/strength/strength.json  with `strength: auto`
#
# OUTPUTS, of which Snakemake sees links in <results>/merge/finished/ (see common.smk)
#   <results>/merge/sam3.pt           loads with the stock sam3 loader
#   <results>/merge/parity.json       adapted against merged outputs, on random pixels
#                                     and on images of valid
#   <results>/merge/MODEL_CARD.md     carries the license of SAM 3


rule merge:
    """Merge the adapters into one checkpoint that stock SAM 3 code loads."""
    input:
        rules.train.output.tensors,
        rules.train.output.recipe,
        WEIGHTS_INPUT,
        valid=TRAINED.valid,
        config=rules.train.output.config,
        strengths=STRENGTHS,
    output:
        weights="<results>/merge/finished/sam3.pt",
        parity="<results>/merge/finished/parity.json",
        card="<results>/merge/finished/MODEL_CARD.md",
    log:
        "<logs>/merge.log",
    benchmark:
        "<benchmarks>/merge.tsv"
    conda:
        "../envs/segtune.yaml"
    threads: 8
    resources:
        mem_mb=32000,
    params:
        train=subpath(input.config, ancestor=3),
        out=subpath(output.weights, ancestor=2),
        model=CONFIG.model,
        weights=CONFIG.weights,
        weights_digest=WEIGHTS_DIGEST,
        settings=settings("merge"),
        strengths=strength_argument,
        code=code("merge"),
        link_script=link_script,
    message:
        "Merging the adapters into {output.weights}"
    shell:
        """
        python3 -m segtune.merge --adapter {params.train:q}/adapter --out {params.out:q} \
            --model {params.model:q} --weights {params.weights:q} \
            --coco {input.valid:q} --settings {params.settings:q} {params.strengths} \
            2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


forget_unless_whole([*rules.train.output, *STRENGTHS], rules.merge.output)
