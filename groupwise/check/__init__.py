"""Looks at a recipe before the first expensive step: data, prompts, rewards, the untrained model, cost.

Every check is one function that returns `Finding`s. They stand with their thresholds in the file of what they look at:
data.py, prompts.py, completions.py, rewards.py, probes.py, machine.py. `run.py` puts them in order.
"""
