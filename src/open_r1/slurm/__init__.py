"""Recipe and site file -> Slurm jobs: `python -m open_r1.slurm RECIPE [section.key=value …]`.

site        what the cluster is like: slurm/site.yaml
jobs        which jobs a recipe is, one after the other, and what each asks for
rendering   a job -> its whole sbatch script
submitting  the folder of a submission, and sbatch

A job runs `open_r1.launch` as anybody would, on its first node. What it adds is in job.sh: it hands on the signal that
comes before the time limit, and queues itself again when the run has ended with a checkpoint.
"""
