"""The evaluation of a checkpoint: benchmarks, stored completions, intervals and paired comparisons.

    python -m dgpo eval model=FOLDER benchmarks=[aime24,math500] data_dir=FOLDER n=64 eval_dir=FOLDER
    python -m dgpo eval --rescore FOLDER
    python -m dgpo eval --compare FOLDER FOLDER

    folder = run.evaluate(settings.load(model="tiny", n=64))    sample, judge, store; resumes after an interruption
    for samples in run.read(folder):
        print(scores.summary(samples))

Settings are in `settings.py`, benchmarks in `benchmarks.py`, the folder of an evaluation in `folder.py`, the work in
`run.py`, statistics in `scores.py`.
"""
