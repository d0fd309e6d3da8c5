#!/usr/bin/env bash
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=96G
#SBATCH --time=24:00:00
#SBATCH --array=0-11
# Run one method per job: array.sh CONFIG OUT. Jobs beyond the last method end at once.
set -euo pipefail
python - "$1" "$2" "${SLURM_ARRAY_TASK_ID:?run me by sbatch}" <<'PY'
import sys

import unpact_lens as ul

source, out, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = ul.load_config(source)
if number < len(config.methods):
    method = config.methods[number]
    # Each job has its own folder. Jobs in one folder would compute its shared parts at the same time.
    ul.run_study(config.model_copy(update={"methods": (method,)}), f"{out}/jobs/{method.name}")
PY
