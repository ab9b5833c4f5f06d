# Tile: cut train and valid into overlapping windows of large images. Only with a `side` in the tiles
# section.
#
# REQUIRED INPUTS
#   <results>/coco/{train,valid}.json
#   <results>/coco/manifest.json
#   <results>/validate/report.json
#
# OUTPUTS
#   <results>/tiles/{train,valid}.json
#   <results>/tiles/manifest.json     path, size and SHA-256 of every tile
#   <results>/tiles/tiles.json        how large the tiles are, and why
#
# Undeclared: <results>/tiles/images/, the tiles. An earlier one that is not used is removed.


rule tile:
    """Cut the images of train and valid into tiles, with their objects."""
    input:
        rules.convert.output.train,
        rules.convert.output.valid,
        manifest=rules.convert.output.manifest,
        report=rules.validate.output,
    output:
        train="<results>/tiles/train.json",
        valid="<results>/tiles/valid.json",
        manifest="<results>/tiles/manifest.json",
        tiles="<results>/tiles/tiles.json",
    log:
        "<logs>/tile.log",
    benchmark:
        "<benchmarks>/tile.tsv"
    conda:
        "../envs/segtune.yaml"
    # More than a workstation has: Snakemake lowers it to --cores.
    threads: 64
    params:
        coco=subpath(input.manifest, parent=True),
        out=subpath(output.tiles, parent=True),
        model=CONFIG.model,
        image_size=IMAGE_SIZE,
        settings=settings("tiles"),
        code=code("tile"),
    message:
        "Cutting {params.coco} into tiles"
    shell:
        """
        python3 -m segtune.tile --coco {params.coco:q} --out {params.out:q} \
            --model {params.model:q} {params.image_size} --settings {params.settings:q} \
            --workers {threads} 2>&1 | tee -i {log:q}
        """


# What is trained on, and what predictions need to know of it: tiles, or whole images.
TRAINED = rules.tile.output if CONFIG.tiles.side else rules.convert.output
TILES = [rules.tile.output.tiles] if CONFIG.tiles.side else []

# What must be there, or else what follows is forgotten: tiles only once there have been some, so
# that a look at the plan with tiles costs nothing of what was trained on whole images.
TILED = Path(CONFIG.results, "tiles").exists()
WHOLE_IF_TRAINED = TRAINED if TILED else rules.convert.output

if TILES:
    forget_unless_whole(
        [*rules.convert.output, *rules.validate.output], rules.tile.output
    )
