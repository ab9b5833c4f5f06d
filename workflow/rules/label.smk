# Label: detect the classes in new images with the merged model, however many there are, in shards
# of which each is a job. Only on request:
#   snakemake --cores all --resources gpu=2 --config "label={images: photos}" -- label
#
# REQUIRED INPUTS
#   a folder of images                       config key `label: images`
#   <results>/merge/sam3.pt
#   <results>/evaluate/metrics.json          confidence thresholds
#   <results>/train/adapter/recipe.json      size of the model and of its input
#   <results>/coco/test.json                 classes and prompts
#
# OUTPUTS, of which Snakemake sees links in <results>/label/finished/ (see common.smk)
#   <results>/label/lists.json               which lists of images there are
#   <results>/label/shards/{shard}.json      the labels of one list
#   <results>/label/labels.json              those of all
#
# Undeclared: <results>/label/lists/, the names of each shard's images, and
# <results>/label/shards/kept/, the earlier labels.


checkpoint label_list:
    """List the images to label, in a text file for each shard."""
    output:
        "<results>/label/finished/lists.json",
    log:
        "<logs>/label_list.log",
    conda:
        "../envs/segtune.yaml"
    params:
        images=label_images,
        fingerprint=label_fingerprint,
        out=subpath(output[0], ancestor=2),
        settings=settings("label"),
        code=code("label_list"),
        link_script=link_script,
    message:
        "Listing the images in {params.images}"
    shell:
        """
        python3 -m segtune.label_list --images {params.images:q} --out {params.out:q} \
            --settings {params.settings:q} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule label_shard:
    """Label the images of one list."""
    input:
        rules.train.output.recipe,
        rules.convert.output.test,
        rules.evaluate.output.metrics,
        weights=rules.merge.output.weights,
        list="<results>/label/lists/{shard}.txt",
    output:
        "<results>/label/finished/shards/{shard}.json",
    log:
        "<logs>/label_shard_{shard}.log",
    benchmark:
        "<benchmarks>/label_shard_{shard}.tsv"
    conda:
        "../envs/segtune.yaml"
    threads: 8
    resources:
        gpu=1,
        runtime=240,  # minutes
        slurm_extra=SIGNAL,
    params:
        images=label_images,
        run=subpath(input.weights, ancestor=3),
        out=subpath(output[0], ancestor=3),
        settings=label_predict_settings,
        code=code("predict"),
        keep=keep,
        link_script=link_script,
    message:
        "Labeling the images of {input.list}"
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} --torchrun -- \
            -m segtune.predict --run {params.run:q} --images {params.images:q} \
            --list {input.list:q} --out {params.out:q}/shards/{wildcards.shard}.json \
            --settings {params.settings:q} --keep {params.keep} 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule label_gather:
    """Gather the labels of all shards."""
    input:
        label_shards,
    output:
        "<results>/label/finished/labels.json",
    log:
        "<logs>/label_gather.log",
    benchmark:
        "<benchmarks>/label_gather.tsv"
    conda:
        "../envs/segtune.yaml"
    params:
        out=subpath(output[0], ancestor=2),
        code=code("label_gather"),
        link_script=link_script,
    message:
        "Gathering the labels in {output}"
    shell:
        """
        python3 -m segtune.label_gather --lists {params.out:q}/lists.json \
            --shards {params.out:q}/shards --out {params.out:q}/labels.json \
            2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule label:
    """Label new images."""
    input:
        rules.label_gather.output,


LABEL_INDEX = Path(CONFIG.results) / "label" / "lists.json"
LISTED = label_outputs(LABEL_INDEX)
# A list that was deleted is made again; images that other lists have stay there.
forget_unless_whole(
    [LABEL_INDEX.parent / "lists" / f"{Path(path).stem}.txt" for path in LISTED],
    rules.label_list.output,
)
for path in LISTED:
    forget_unless_whole([*rules.merge.output, *rules.evaluate.output], [path])
forget_unless_whole(LISTED, rules.label_gather.output)
