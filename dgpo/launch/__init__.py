"""Starts the ranks of a training as child processes, by torchrun, deepspeed or SLURM.

    python -m dgpo launch tiny ranks=2 run_dir=runs/mine
    dgpo.train("tiny", ranks=2, run_dir="runs/mine")
    papermill notebooks/train.ipynb out.ipynb -p ranks 2 -p run_dir runs/mine

`settings` describes the options, `launchers` builds each launcher's command, `start` decides and checks before anything
starts, `follow` shows the ranks' progress, ends them on Ctrl-C and finds the error of the rank that failed.
"""
