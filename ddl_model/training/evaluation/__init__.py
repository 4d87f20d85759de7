"""How good a checkpoint is: held-out loss, benchmarks, samples. `ddl-eval` is its command."""
