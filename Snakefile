from snakemake.utils import min_version

min_version("9.27")


# Only with `--sdm apptainer`; docs/clusters.md says how it is built from the Dockerfile.
container: "segtune.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/convert.smk"
include: "workflow/rules/validate.smk"
include: "workflow/rules/tile.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/strength.smk"
include: "workflow/rules/merge.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/export_transformers.smk"
include: "workflow/rules/export_safetensors.smk"
include: "workflow/rules/export_onnx.smk"
include: "workflow/rules/learning_curve.smk"
include: "workflow/rules/label.smk"
include: "workflow/rules/label_issues.smk"
include: "workflow/rules/suggest.smk"


report: "workflow/report/workflow.rst"


localrules:
    all,
    download,  # nodes of a cluster often reach no other machine
    predict,
    label,
    label_list,
    suggest,
    suggest_page,
    validate_page,
    train_page,
    evaluate_page,
    train_fraction_page,
    learning_curve_page,
    label_issues_page,


rule all:
    """Everything: from the export to the merged weights and their evaluation."""
    default_target: True
    input:
        rules.validate_page.output,
        rules.train_page.output,
        rules.merge.output,
        rules.evaluate.output,
        rules.evaluate_page.output,
