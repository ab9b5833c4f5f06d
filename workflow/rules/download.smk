# Download: fetch a version from Roboflow, where `export` is roboflow://workspace/project/version.
#
# REQUIRED INPUTS
#   the environment variable ROBOFLOW_API_KEY
#
# OUTPUTS
#   <results>/export.zip              as Roboflow packed it


rule download:
    """Fetch the export; a version never changes, so this is done once."""
    output:
        "<results>/export.zip",
    log:
        "<logs>/download.log",
    benchmark:
        "<benchmarks>/download.tsv"
    conda:
        "../envs/segtune.yaml"
    params:
        export=CONFIG.export,
    message:
        "Downloading {params.export}"
    shell:
        """
        python3 -m segtune.download --export {params.export:q} --out {output:q} \
            2>&1 | tee -i {log:q}
        """
