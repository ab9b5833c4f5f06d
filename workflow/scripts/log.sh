# sh log.sh LOG FOLDER: write the input to LOG, below what an interrupted run has written, if the
# FOLDER of its checkpoints has a state from which it resumes.
#
# Snakemake removes the log of a job that starts, but not the second name that the file has here.
set -eu
trap '' INT TERM # `tee` has to write what a stage says until that ends
mkdir -p "$2"
ls "$2"/*/state-*.pt >/dev/null 2>&1 || rm -f "$2/train.log"
touch "$2/train.log"
ln -f "$2/train.log" "$1" || true # without hard links, only what is new
exec tee -i -a "$1"
