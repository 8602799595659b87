"""Sweeps: runs that differ in named factors and in nothing else.

    python -m dgpo sweep sweep.yaml --jobs 2        run what is missing
    python -m dgpo sweep sweep.yaml --report        report what was equal, what differed, and the results

`definition` reads and checks the file, `execute` runs it, `table` collects one `sweep.parquet`, `report` writes it up.
"""
