"""Tables as text, and the files of the results."""

import json
from pathlib import Path

from benchmarks.environment import HERE, facts

RESULTS = HERE / "results"


def markdown(header: list[str], rows: list[list]) -> str:
    """A table in Markdown, its columns aligned for those who read it as it is."""
    cells = [header, *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    first, *rest = (
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    )
    return "\n".join([first, "|" + "|".join("-" * (w + 2) for w in widths) + "|", *rest])


def _text(cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:.0f}"
    return str(cell)


class Report:
    """Collects the tables and figures of one benchmark and writes them."""

    def __init__(self, name: str, title: str, arguments: list[str], folder: Path | None = None):
        self.name, self.folder = name, folder or RESULTS
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts = facts(arguments)
        self.parts = [f"# {title}", self._machine()]
        self.data: dict = {"facts": self.facts}
        self.peers: dict[str, dict] = {}

    def _machine(self) -> str:
        f = self.facts
        blas = ", ".join(
            f"{b['internal_api']} {b['version']} ({b['architecture']})" for b in f["blas"]
        )
        return (
            f"`{f['command']}`, {f['date']}. {f['cpu']}, {f['cores']} cores, load {f['load']} at the "
            f"start; one thread, CPU time. Python {f['python']}, {blas}."
        )

    def text(self, text: str) -> None:
        self.parts.append(text)
        print(f"\n{text}", flush=True)

    def table(self, header: list[str], rows: list[list]) -> None:
        self.text(markdown(header, rows))

    def note_versions(self, name: str, versions: dict) -> None:
        self.peers[name] = versions

    def figure(self, figure) -> None:
        figure.savefig(self.folder / f"{self.name}.png", dpi=120)
        self.parts.append(f"![{self.name}]({self.name}.png)")

    def write(self) -> None:
        """Write what there is so far; a long benchmark may do so more than once."""
        own = self.facts["versions"]
        lines = [", ".join(f"{name} {v}" for name, v in own.items())]
        for peer, versions in self.peers.items():
            lines.append(f"{peer}: " + ", ".join(f"{name} {v}" for name, v in versions.items()))
        parts = [*self.parts, "Versions: " + "; ".join(lines) + "."]
        self.data["peers"] = self.peers
        (self.folder / f"{self.name}.md").write_text("\n\n".join(parts) + "\n")
        (self.folder / f"{self.name}.json").write_text(json.dumps(self.data, indent=1) + "\n")
