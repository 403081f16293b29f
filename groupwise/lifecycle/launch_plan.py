"""How a recipe is started on several ranks: the command for one machine, for several, and the script for SLURM."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

PORT = 29500
"""Where the ranks of several machines meet."""


@dataclass(frozen=True)
class LaunchPlan:
    """`arguments` are those of `groupwise train`."""

    arguments: Sequence[str]
    name: str
    """Of the run."""
    nodes: int = 1
    ranks_per_node: int = 1
    has_gpus: bool = True

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def command(self) -> str:
        """What is typed, on each of the machines where there are several."""
        if self.num_ranks == 1:
            return f"groupwise {self._train}"
        if self.nodes == 1:
            return f"torchrun --standalone --nproc-per-node {self.ranks_per_node} -m groupwise {self._train}"
        return self._on_nodes(str(self.nodes), f"HEAD:{PORT}", shlex.quote(self.name))

    @property
    def _train(self) -> str:
        return shlex.join(["train", *self.arguments])

    def _on_nodes(self, nodes: str, head: str, run: str) -> str:
        return (
            f"torchrun --nnodes {nodes} --nproc-per-node {self.ranks_per_node} --rdzv-backend c10d "
            f"--rdzv-endpoint {head} --rdzv-id {run} -m groupwise {self._train}"
        )

    def lines(self, plan: str) -> list[str]:
        """The plan and the command, for a terminal."""
        if self.nodes == 1:
            return [plan, "", self.command]
        where = f"On each of the {self.nodes} machines, HEAD being the name or address of one of them, the same:"
        return [plan, "", where, self.command]

    def slurm_script(self, plan: str) -> str:
        """A script for `sbatch`: one task a machine, which starts the ranks of that machine."""
        gpus = [f"#SBATCH --gpus-per-node={self.ranks_per_node}"] if self.has_gpus else []
        lines = [
            "#!/bin/bash",
            f"#SBATCH --job-name={shlex.quote(self.name)}",
            f"#SBATCH --nodes={self.nodes}",
            "#SBATCH --ntasks-per-node=1",
            *gpus,
            f"# {plan}",
            "set -euo pipefail",
            'HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "srun " + self._on_nodes('"$SLURM_NNODES"', f'"$HEAD:{PORT}"', '"$SLURM_JOB_ID"'),
        ]
        return "\n".join(lines)
