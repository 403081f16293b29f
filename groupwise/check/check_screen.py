"""The pre-flight check on a terminal: coloured where the terminal has colours, plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from groupwise.check import wording as words
from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding, worst_first
from groupwise.check.probes import probe_rows
from groupwise.check.prompts import ShownPrompt
from groupwise.check.result import Result
from groupwise.check.reward_stats import Judgement, ranked
from groupwise.runs.text import number, sparkline
from groupwise.runs.transcript import transcript_of

LOG_WIDTH = 100
"""Columns where the output is no terminal."""
PROMPT_HEAD, PROMPT_TAIL = 500, 250
"""Characters of a long prompt; the page has it whole."""
NUM_ENDS = 2
"""Completions shown from each end."""
STYLES = {"fail": "bold red", "warn": "bold yellow", "note": "cyan"}


def show(result: Result, page: Path, stream: TextIO | None = None) -> None:
    """Print the whole result; the findings come last, where the eye is."""
    Shown(result, stream or sys.stdout).print_all(page)


class Shown:
    """One result on one console."""

    def __init__(self, result: Result, stream: TextIO) -> None:
        self.result = result
        self.console = Console(file=stream, width=None if stream.isatty() else LOG_WIDTH, highlight=False)
        self.is_unicode = self.console.encoding.lower().startswith("utf")

    def print_all(self, page: Path) -> None:
        with self.console.capture() as shown:
            self._print_parts(page)
        self.console.file.write("".join(f"{line.rstrip(' ')}\n" for line in shown.get().splitlines()))

    def _print_parts(self, page: Path) -> None:
        self._heading(f"groupwise check: {self.result.run_name}")
        self._pairs(self.result.about)
        if self.result.prompts:
            self._prompts(self.result.prompts)
        if self.result.evidence is not None:
            self._completions(self.result.evidence)
            self._rewards(self.result.evidence)
            self._probes(self.result.evidence)
        if self.result.cost is not None:
            self._heading("Cost")
            self._pairs(words.cost_rows(self.result.cost))
        self._findings(self.result.findings)
        self._verdict(page)

    def _text(self, text: str, style: str = "") -> Text:
        """Text that this console can encode."""
        text = words.visible(text)
        if not self.is_unicode:
            text = text.encode(self.console.encoding, "backslashreplace").decode(self.console.encoding)
        return Text(text, style)

    def _print(self, text: Text, indent: int = 2) -> None:
        self.console.print(Padding(text, (0, 0, 0, indent), expand=False))

    def _heading(self, text: str) -> None:
        self.console.print()
        self.console.print(self._text(text, "bold"))

    def _pairs(self, rows: Sequence[tuple[str, str]]) -> None:
        table = self._table()
        for label, value in rows:
            table.add_row(self._text(label, "dim"), self._text(value))
        self.console.print(Padding(table, (0, 0, 0, 2), expand=False))

    def _table(self, *columns: str) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=bool(columns), header_style="dim")
        for number_of, name in enumerate(columns):
            table.add_column(name, justify="right" if number_of else "left", no_wrap=bool(number_of))
        return table

    def _prompts(self, prompts: Sequence[ShownPrompt]) -> None:
        self._heading("Prompts")
        if self.result.lengths is not None:
            self._print(self._text(words.lengths_line(self.result.lengths)))
        for prompt in prompts:
            self._print(self._text(words.prompt_line(prompt), "dim"))
            text = self._text(_shortened(prompt.text))
            text.highlight_words(self.result.special_tokens, "bold magenta")
            self._print(text, indent=4)

    def _completions(self, evidence: Evidence) -> None:
        self._heading("What the untrained model answers")
        self._print(self._text(words.sampled_line(evidence)))
        if rows := words.turn_rows(evidence):
            self._pairs(rows)
        scored = ranked(evidence.sampled.groups)
        ends = 1 if rows else NUM_ENDS
        for which, style, chosen in (("best", "green", scored[:ends]), ("least", "red", scored[ends:][-ends:])):
            for judgement in chosen:
                self._print(self._text(f"{which}: {_about(judgement)}", style))
                for line in _lines(judgement):
                    self._print(self._text(line, "dim"), indent=4)

    def _rewards(self, evidence: Evidence) -> None:
        self._heading("Rewards")
        columns = [name for i, name in enumerate(words.REWARD_COLUMNS) if self.is_unicode or i != words.SPREAD]
        table = self._table(*columns)
        for name, cells, bins in words.reward_rows(evidence):
            row = [self._text(name), *map(self._text, cells)]
            if self.is_unicode:
                row.insert(words.SPREAD, Text(sparkline(bins, len(bins)) if bins else "", "cyan"))
            table.add_row(*row)
        self.console.print(Padding(table, (0, 0, 0, 2), expand=False))
        for line in words.agreement_lines(evidence.agreements):
            self._print(self._text(line))
        self._heading("Groups with signal")
        self._print(self._text(words.signal_line(evidence)))
        shares = "   ".join(f"{size}: {share}" for size, share in words.signal_cells(evidence))
        self._print(self._text(shares))

    def _probes(self, evidence: Evidence) -> None:
        self._heading("Made-up completions")
        names = [scores.name for scores in evidence.functions]
        several = len(names) > 1
        table = self._table("completion", *(["total"] if several else []), *names)
        for row in probe_rows(evidence.probed):
            values = [*([row.total] if several else []), *(row.rewards[name] for name in names)]
            table.add_row(self._text(row.kind), *(self._text(number(value)) for value in values))
        mean = [*([evidence.total.mean] if several else []), *(scores.mean for scores in evidence.functions)]
        table.add_row(self._text("sampled, mean", "dim"), *(self._text(number(value), "dim") for value in mean))
        self.console.print(Padding(table, (0, 0, 0, 2), expand=False))

    def _findings(self, findings: Sequence[Finding]) -> None:
        if findings:
            self._heading("Findings")
        for finding in worst_first(findings):
            label = finding.level.upper() if finding.level != "note" else "note"
            self._print(Text.assemble((label, STYLES[finding.level]), "  ", (finding.name, "bold")))
            self._print(self._text(finding.what), indent=6)
            self._print(self._text(f"-> {finding.remedy}", "italic"), indent=6)

    def _verdict(self, page: Path) -> None:
        self.console.print()
        self.console.print(self._text(self.result.verdict, "bold green" if self.result.has_passed else "bold red"))
        if self.result.first_change is not None:
            self.console.print(self._text(f"First change: {self.result.first_change}", "bold"))
        if self.result.cost is not None:
            self.console.print(self._text(words.run_line(self.result.cost)))
        self.console.print(self._text(f"page  {page}"), soft_wrap=True)


def _about(judgement: Judgement) -> str:
    parts = [f"reward {number(judgement.reward)}"]
    if len(judgement.rewards) > 1:
        parts += [f"{name} {number(value)}" for name, value in judgement.rewards.items()]
    cut = ", cut off" if judgement.completion.is_truncated else ""
    parts.append(f"{judgement.completion.num_sampled} tokens{cut}")
    return f"{', '.join(parts)} ({judgement.place})"


def _lines(judgement: Judgement) -> list[str]:
    """What the completion wrote, in one line; with turns one for each message."""
    if not judgement.completion.turns:
        return [_one_line(judgement.completion.text)]
    return [_one_line(line) for line in transcript_of(judgement.completion).splitlines() if line.strip()]


def _one_line(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return (line if len(line) <= limit else line[:limit] + " ...") or "(empty)"


def _shortened(text: str) -> str:
    if len(text) <= PROMPT_HEAD + PROMPT_TAIL:
        return text
    left_out = len(text) - PROMPT_HEAD - PROMPT_TAIL
    return f"{text[:PROMPT_HEAD]}\n[... {left_out:,} characters, on the page ...]\n{text[-PROMPT_TAIL:]}"
