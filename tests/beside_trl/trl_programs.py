"""Runs programs/ with TRL itself, its name put back into the imports, and writes what they did to programs_in_trl.json.

    python tests/beside_trl/trl_programs.py [NN ...]

needs an environment with TRL 1.16.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "stand_ins")]

from program_space import PROGRAMS, REFERENCE, YAML, inside, lines_of, make_space, meaning, source, start

LEFT_OUT = re.compile(
    r"\n *(max_prompt_length|warmup_ratio|use_vllm|vllm_\w+|optim|overwrite_output_dir)(=|: ).*|\n *report_to=None.*"
)
"""Lines with a name that TRL 1.16 has no more, or that needs vLLM or bitsandbytes: TRL runs the programs without."""


def what_happens(number: str) -> list[dict[str, Any]]:
    """For each start of the program: what it did, or the error that ended it."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place, inside(Path(place)):
        make_space(Path(place))
        for name, text in YAML.items():
            (Path(place) / name).write_text(LEFT_OUT.sub("", text))
        text = LEFT_OUT.sub("", source(number).read_text())
        path = Path(place) / source(number).name
        path.write_text(text.replace("from groupwise import trl", "import trl").replace("groupwise.trl", "trl"))
        for line in lines_of(number):
            try:
                found.append(meaning(start(path, line)))
            except Exception as error:
                found.append({"error": f"{type(error).__name__}: {error}"[:300]})
    return found


def on_the_cpu(checks: Any) -> Any:
    """TRL's configuration stops where there is no GPU unless it says use_cpu, which no program does."""

    def checked(self: Any) -> None:
        self.use_cpu = True
        checks(self)

    return checked


def main() -> None:
    from trl import __version__

    transformers.utils.logging.disable_progress_bar()
    transformers.TrainingArguments.__post_init__ = on_the_cpu(transformers.TrainingArguments.__post_init__)

    transformers.Trainer.push_to_hub = lambda self, *args, **kwargs: None
    transformers.Trainer.init_hf_repo = lambda self, *args, **kwargs: None
    transformers.Trainer._push_from_checkpoint = lambda self, *args, **kwargs: None
    transformers.Trainer._finish_current_push = lambda self, *args, **kwargs: None
    known = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    known["trl"] = __version__
    numbers = sys.argv[1:] or sorted(path.name[:2] for path in PROGRAMS.glob("*.py"))
    for number in numbers:
        known[number] = what_happens(number)
        print(number, json.dumps(known[number])[:400], flush=True)
    REFERENCE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
