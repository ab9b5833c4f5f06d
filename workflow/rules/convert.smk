# Convert: turn an export of any supported format into COCO.
#
# REQUIRED INPUTS
#   the export, a folder or zip       config key `export`, or <results>/export.zip
#
# OUTPUTS
#   <results>/coco/{train,valid,test}.json
#   <results>/coco/manifest.json      path, size and SHA-256 of every image
#   <results>/coco/conversion.json    what was dropped, renamed or recomputed


rule convert:
    """Convert the export to one COCO file per split, and log every repair."""
    input:
        # A folder's modification time says nothing about its content; the param `export` does.
        export="<results>/export.zip" if REMOTE else ancient(CONFIG.export),
    output:
        train="<results>/coco/train.json",
        valid="<results>/coco/valid.json",
        test="<results>/coco/test.json",
        manifest="<results>/coco/manifest.json",
        conversion="<results>/coco/conversion.json",
    log:
        "<logs>/convert.log",
    benchmark:
        "<benchmarks>/convert.tsv"
    # What it refuses, it would refuse again.
    retries: 0
    conda:
        "../envs/segtune.yaml"
    params:
        out=subpath(output.manifest, parent=True),
        settings=settings("convert"),
        code=code("convert"),
        export=str(REMOTE) if REMOTE else export_fingerprint(Path(CONFIG.export)),
    message:
        "Converting {input.export}"
    shell:
        """
        python3 -m segtune.convert --export {input.export:q} --out {params.out:q} \
            --settings {params.settings:q} 2>&1 | tee -i {log:q}
        """
