# Merge: fold the adapters into the base weights, and check that outputs stay the same.
#
# REQUIRED INPUTS
#   <results>/train/adapter/          adapter_config.json, adapter_model.safetensors,
#                                     recipe.json
#   base weights                      config key `weights`
#
# OUTPUTS
#   <results>/merge/sam3.pt           loads with the stock sam3 loader
#   <results>/merge/parity.json       adapted against merged outputs
#   <results>/merge/MODEL_CARD.md     carries the license of SAM 3


rule merge:
    """Merge the adapters into one checkpoint that stock SAM 3 code loads."""
    input:
        rules.train.output.tensors,
        rules.train.output.recipe,
        WEIGHTS_INPUT,
        config=rules.train.output.config,
    output:
        weights="<results>/merge/sam3.pt",
        parity="<results>/merge/parity.json",
        card="<results>/merge/MODEL_CARD.md",
    log:
        "<logs>/merge.log",
    benchmark:
        "<benchmarks>/merge.tsv"
    conda:
        "../envs/segtune.yaml"
    threads: 8
    params:
        adapter=subpath(input.config, parent=True),
        out=subpath(output.weights, parent=True),
        model=CONFIG.model,
        weights=CONFIG.weights,
        weights_digest=WEIGHTS_DIGEST,
        settings=settings("merge"),
        code=code("merge"),
    message:
        "Merging the adapters into {output.weights}"
    shell:
        """
        python3 -m segtune.merge --adapter {params.adapter:q} --out {params.out:q} \
            --model {params.model:q} --weights {params.weights:q} \
            --settings {params.settings:q} 2>&1 | tee -i {log:q}
        """
