#!/usr/bin/env bash
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=96G
#SBATCH --time=24:00:00
#SBATCH --array=0-11
# Run the cells of a study as a SLURM array: sbatch [--array=0-N] array.sh CONFIG OUT
# Job i of n runs every n-th cell, from cell i on. All jobs share OUT: each shared part is computed once, by the job that
# needs it first. The last job to end writes the complete table and report. A job that was killed goes on from its
# checkpoint when it is submitted again.
set -euo pipefail
task="${SLURM_ARRAY_TASK_ID:?run me by sbatch}"
first="${SLURM_ARRAY_TASK_MIN:-0}"
exec unpact study run "$1" --out "$2" --share "$((task - first))/${SLURM_ARRAY_TASK_COUNT:?run me by sbatch}"
