# Export as safetensors with the layout of the official checkpoint. Only on request:
#   snakemake --cores all --resources gpu=2 -- export_safetensors
#
# REQUIRED INPUTS
#   <results>/merge/sam3.pt, <results>/merge/parity.json
#   <results>/train/adapter/                  its recipe
#   <results>/evaluate/metrics.json           scores and confidence thresholds
#   <results>/coco/valid.json                 classes and prompts
#
# OUTPUTS, of which Snakemake sees links in <results>/safetensors/finished/ (see common.smk)
#   <results>/safetensors/README.md           the model card
#   <results>/safetensors/sam3.safetensors    the tensors of sam3.pt
#   <results>/safetensors/prompts.json, <results>/safetensors/thresholds.json


rule export_safetensors:
    """Write the merged weights as safetensors."""
    input:
        rules.train.output.recipe,
        weights=rules.merge.output.weights,
        parity=rules.merge.output.parity,
        config=rules.train.output.config,
        metrics=rules.evaluate.output.metrics,
        coco=rules.convert.output.valid,
    output:
        card="<results>/safetensors/finished/README.md",
        weights="<results>/safetensors/finished/sam3.safetensors",
        prompts="<results>/safetensors/finished/prompts.json",
        thresholds="<results>/safetensors/finished/thresholds.json",
    log:
        "<logs>/export_safetensors.log",
    benchmark:
        "<benchmarks>/export_safetensors.tsv"
    conda:
        "../envs/segtune.yaml"
    params:
        train=subpath(input.config, ancestor=3),
        out=subpath(output.card, ancestor=2),
        model=CONFIG.model,
        image_size=IMAGE_SIZE,
        code=code("to_safetensors"),
        link_script=link_script,
    message:
        "Writing {output.weights}"
    shell:
        """
        python3 -m segtune.to_safetensors --weights {input.weights:q} \
            --parity {input.parity:q} --adapter {params.train:q}/adapter \
            --metrics {input.metrics:q} --coco {input.coco:q} --out {params.out:q} --model {params.model:q} \
            {params.image_size} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


forget_unless_whole(
    [*rules.merge.output, *rules.evaluate.output], rules.export_safetensors.output
)
