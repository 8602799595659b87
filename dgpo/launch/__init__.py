"""Starts the ranks of a training as child processes, by torchrun, deepspeed or SLURM.

    python -m dgpo launch tiny ranks=2 run_dir=runs/mine
    dgpo.train("tiny", ranks=2, run_dir="runs/mine")
    papermill notebooks/train.ipynb out.ipynb -p ranks 2 -p run_dir runs/mine

`settings` says what can be asked for, `launchers` how each of the three is called, `start` decides and checks before
anything starts, `follow` shows the progress of the ranks, ends them and finds the error of the one that failed.
"""
