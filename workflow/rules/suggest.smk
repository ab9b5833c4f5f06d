# Suggest: which images of a folder to label next, with pre-labels from the merged model. Only on
# request:
#   snakemake --cores all --resources gpu=2 --config "suggest={images: photos}" -- suggest
#
# REQUIRED INPUTS
#   a folder of images                       config key `suggest: images`
#   <results>/merge/sam3.pt
#   <results>/evaluate/metrics.json          confidence thresholds, and AP per class
#   <results>/train/adapter/recipe.json      size of the model and of its input
#   <results>/coco/{train,valid,test}.json   images that are labeled; classes and prompts
#
# OUTPUTS, of which Snakemake sees links in <results>/suggest/finished/ (see common.smk)
#   <results>/suggest/suggestions.json       the images in order, with reasons
#   <results>/suggest/labels.json            their pre-labels
#   <results>/suggest/images.txt             their names
#   <results>/suggest/suggestions.html       the page, made by its own rule


rule suggest_images:
    """Suggest which images to label next."""
    input:
        rules.train.output.recipe,
        rules.convert.output.test,
        rules.convert.output.train,
        rules.convert.output.valid,
        rules.convert.output.manifest,
        rules.evaluate.output.metrics,
        weights=rules.merge.output.weights,
    output:
        suggestions="<results>/suggest/finished/suggestions.json",
        labels="<results>/suggest/finished/labels.json",
        images="<results>/suggest/finished/images.txt",
    log:
        "<logs>/suggest.log",
    benchmark:
        "<benchmarks>/suggest.tsv"
    conda:
        "../envs/segtune.yaml"
    threads: 8
    resources:
        gpu=1,
        runtime=240,  # minutes
    params:
        images=suggest_images,
        fingerprint=suggest_fingerprint,
        run=subpath(input.weights, ancestor=3),
        out=subpath(output.suggestions, ancestor=2),
        settings=settings("suggest"),
        predict=label_predict_settings,
        code=code("suggest"),
        link_script=link_script,
    message:
        "Choosing what to label next in {params.images}"
    shell:
        """
        python3 -m segtune.launch --devices {resources.gpu} --torchrun -- \
            -m segtune.suggest --run {params.run:q} --images {params.images:q} \
            --out {params.out:q} --settings {params.settings:q} --predict {params.predict:q} \
            2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule suggest_page:
    """Make the page of what to label next."""
    input:
        suggestions=rules.suggest_images.output.suggestions,
        labels=rules.suggest_images.output.labels,
    output:
        "<results>/suggest/finished/suggestions.html",
    log:
        "<logs>/suggest_page.log",
    conda:
        "../envs/segtune.yaml"
    params:
        images=suggest_images,
        out=subpath(output[0], ancestor=2),
        code=page_code("suggest_page"),
        link_script=link_script,
    message:
        "Writing {output}"
    shell:
        """
        python3 -m segtune.suggest_page --suggestions {input.suggestions:q} \
            --labels {input.labels:q} --images {params.images:q} \
            --out {params.out:q}/suggestions.html 2>&1 | tee -i {log:q}
        sh {params.link_script:q} {output:q}
        """


rule suggest:
    """Suggest which images to label next, on a page."""
    input:
        rules.suggest_images.output,
        rules.suggest_page.output,


forget_unless_whole(
    [*rules.merge.output, *rules.evaluate.output], rules.suggest_images.output
)
forget_unless_whole(rules.suggest_images.output, rules.suggest_page.output)
