"""Slurm's commands as a launcher needs them, on this machine and without Slurm."""

from pathlib import Path

# The command once per node, which know each other by number only; the options are noted. As the
# real one does, it kills them at SIGTERM.
SRUN = """#!/bin/sh
printf '%s\\n' "$@" > "$0.arguments"
nodes=0
while [ "${1#--}" != "$1" ]; do
    case $1 in
        --nodes=*) nodes=${1#--nodes=};;
        --job-name=*) echo "7.3 ${1#--job-name=}" > "$0.steps";;
    esac
    shift
done
started= number=0 status=0
trap 'kill -KILL $started' TERM
while [ $number -lt $nodes ]; do
    SLURM_NODEID=$number SLURM_STEP_NODELIST='pretended[1-2]' "$@" &
    started="$started $!" number=$((number + 1))
done
echo $started > "$0.started"
for process in $started; do wait $process || status=$?; done
exit $status
"""
SQUEUE = """#!/bin/sh
[ "$*" = '--steps --noheader --jobs=7 --format=%i %j' ] || exit 1
echo '7.0 other'
cat "$(dirname "$0")/srun.steps"
"""
SCANCEL = """#!/bin/sh
[ "$*" = '--signal=TERM 7.3' ] && kill -TERM $(cat "$(dirname "$0")/srun.started")
"""
SCONTROL = """#!/bin/sh
[ "$*" = 'show hostnames pretended[1-2]' ] || { echo "not a list: $3" >&2; exit 1; }
printf 'localhost\\nelsewhere.invalid\\n'
"""
COMMANDS = {"srun": SRUN, "scontrol": SCONTROL, "squeue": SQUEUE, "scancel": SCANCEL}


def pretend_slurm(folder: Path) -> Path:
    """Write the commands to a folder that is to come first in PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in COMMANDS.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder
