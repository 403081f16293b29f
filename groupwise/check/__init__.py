"""The pre-flight check of a recipe: data, prompts, rewards, the untrained model, cost.

Every check is one function that returns `Finding`s. Each file holds the checks of its subject with their thresholds:
data.py, prompts.py, completions.py, rewards.py, probes.py, machine.py. `run_checks.py` puts them in order.
"""
