# Export to three ONNX files, as X-AnyLabeling reads them. Only on request:
#   snakemake --cores all --resources gpu=2 -- export_onnx
# It needs packages that segtune itself does not: pip install onnx onnxruntime onnxscript
#
# REQUIRED INPUTS
#   <results>/merge/sam3.pt, <results>/merge/parity.json
#   <results>/train/adapter/              its recipe
#   <results>/evaluate/metrics.json       scores and confidence thresholds
#   <results>/coco/valid.json             classes and prompts
#
# OUTPUTS, of which Snakemake sees links in <results>/onnx/finished/ (see common.smk)
#   <results>/onnx/README.md              the model card; how to call the model
#   <results>/onnx/x-anylabeling.yaml     with which X-AnyLabeling loads the model
#   <results>/onnx/                       three models, each with its weights beside it


rule export_onnx:
    """Write the merged model as ONNX files."""
    input:
        rules.train.output.recipe,
        weights=rules.merge.output.weights,
        parity=rules.merge.output.parity,
        config=rules.train.output.config,
        metrics=rules.evaluate.output.metrics,
        coco=rules.convert.output.valid,
    output:
        card="<results>/onnx/finished/README.md",
        config="<results>/onnx/finished/x-anylabeling.yaml",
        image_encoder="<results>/onnx/finished/sam3_image_encoder.onnx",
        image_weights="<results>/onnx/finished/sam3_image_encoder.onnx.data",
        language_encoder="<results>/onnx/finished/sam3_language_encoder.onnx",
        language_weights="<results>/onnx/finished/sam3_language_encoder.onnx.data",
        decoder="<results>/onnx/finished/sam3_decoder.onnx",
        decoder_weights="<results>/onnx/finished/sam3_decoder.onnx.data",
        prompts="<results>/onnx/finished/prompts.json",
        thresholds="<results>/onnx/finished/thresholds.json",
    log:
        "<logs>/export_onnx.log",
    benchmark:
        "<benchmarks>/export_onnx.tsv"
    conda:
        "../envs/segtune.yaml"
    threads: 8
    resources:
        mem_mb=32000,
    params:
        train=subpath(input.config, ancestor=3),
        out=subpath(output.card, ancestor=2),
        model=CONFIG.model,
        image_size=IMAGE_SIZE,
        code=code("to_onnx"),
        link_script=link_script,
    message:
        "Writing the model as ONNX files to {params.out}"
    shell:
        """
        python3 -m segtune.to_onnx --weights {input.weights:q} \
            --parity {input.parity:q} --adapter {params.train:q}/adapter \
            --metrics {input.metrics:q} --coco {input.coco:q} --out {params.out:q} --model {params.model:q} \
            {params.image_size} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


forget_unless_whole(
    [*rules.merge.output, *rules.evaluate.output], rules.export_onnx.output
)
