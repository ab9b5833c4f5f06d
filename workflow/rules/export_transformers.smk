# Export for the transformers package: the merged model and its adapter. Only on request:
#   snakemake --cores all --resources gpu=2 -- export_transformers
#
# REQUIRED INPUTS
#   <results>/merge/sam3.pt, <results>/merge/parity.json
#   <results>/train/adapter/
#   <results>/evaluate/metrics.json       scores and confidence thresholds
#   <results>/coco/valid.json             classes and prompts
#
# OUTPUTS, of which Snakemake sees links in <results>/transformers/finished/ (see common.smk)
#   <results>/transformers/README.md      the model card; how to call the model
#   <results>/transformers/               what Sam3Model and Sam3Processor read
#   <results>/transformers/adapter/       the adapter for PEFT, under transformers' names


rule export_transformers:
    """Write the merged model and its adapter for the transformers package."""
    input:
        rules.train.output.tensors,
        rules.train.output.recipe,
        weights=rules.merge.output.weights,
        parity=rules.merge.output.parity,
        config=rules.train.output.config,
        metrics=rules.evaluate.output.metrics,
        coco=rules.convert.output.valid,
    output:
        card="<results>/transformers/finished/README.md",
        config="<results>/transformers/finished/config.json",
        weights="<results>/transformers/finished/model.safetensors",
        processor="<results>/transformers/finished/processor_config.json",
        tokenizer="<results>/transformers/finished/tokenizer.json",
        tokenizer_config="<results>/transformers/finished/tokenizer_config.json",
        prompts="<results>/transformers/finished/prompts.json",
        thresholds="<results>/transformers/finished/thresholds.json",
        adapter_config="<results>/transformers/finished/adapter/adapter_config.json",
        adapter="<results>/transformers/finished/adapter/adapter_model.safetensors",
    log:
        "<logs>/export_transformers.log",
    benchmark:
        "<benchmarks>/export_transformers.tsv"
    conda:
        "../envs/segtune.yaml"
    params:
        train=subpath(input.config, ancestor=3),
        out=subpath(output.card, ancestor=2),
        model=CONFIG.model,
        image_size=IMAGE_SIZE,
        code=code("to_transformers"),
        link_script=link_script,
    message:
        "Writing the model for transformers to {params.out}"
    shell:
        """
        python3 -m segtune.to_transformers --weights {input.weights:q} \
            --parity {input.parity:q} --adapter {params.train:q}/adapter \
            --metrics {input.metrics:q} --coco {input.coco:q} --out {params.out:q} --model {params.model:q} \
            {params.image_size} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


forget_unless_whole(
    [*rules.merge.output, *rules.evaluate.output], rules.export_transformers.output
)
