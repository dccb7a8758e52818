"""Results as a table for the terminal. Scores are printed times 100, each with its protocol's name."""

from collections.abc import Sequence
from typing import Any


def table(results: dict[str, Any]) -> str:
    """The table of a `results.json`.

    Args:
        results: Its content.

    Returns:
        Lines of at most about 120 characters: per task its protocol, per metric the score with its 95 % bootstrap
        interval and the number of samples, then how the answers could be read.
    """
    lines = [f"model {results['model']}   data {results['data']} ({results['data_sha256'][:12]})"
             + (f"   control {results['control']}" if results["control"] else "")]
    if results["partial"]:
        lines.append("partial: a selection of the split; CIDEr-D and other scores do not compare with the full split")
    for name, metrics in results["tasks"].items():
        lines += ["", f"{name}   [{results['protocol'][name]}]"]
        lines += _columns([_metric(metric) for metric in metrics.values()])
        lines.append(f"  answers read: {_shares(results['parse_rate'][name])}")
        if name in results.get("against", {}):
            lines.append(f"  beside the unperturbed run: {_comparison(results['against'][name])}")
    return "\n".join(lines)


def _metric(metric: dict[str, Any]) -> tuple[str, ...]:
    note = f"{metric['interval']}, references {metric['references_sha256'][:12]}" if "interval" in metric else ""
    return (f"  {metric['title']}", f"{metric['value']:.2f}", f"[{metric['low']:.2f}, {metric['high']:.2f}]",
            f"n={metric['n']}", note)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with aligned columns; names to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(5)] if rows else []
    return ["  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]]).rstrip()
            for row in rows]


def _shares(shares: dict[str, float]) -> str:
    """Every status that occurs, and the unreadable share always."""
    seen = [f"{name} {100 * share:.1f} %" for name, share in shares.items() if share and name != "unreadable"]
    return ", ".join(seen) + f"; unreadable, counted as wrong: {100 * shares['unreadable']:.1f} %"


def _comparison(shares: dict[str, float]) -> str:
    text = f"{100 * shares['kept']:.1f} % of {shares['n']:.0f} answers kept"
    if "follows" in shares:
        text += (f"; of {shares['informative']:.0f} with different answers {100 * shares['follows']:.1f} % follow the "
                 f"images, {100 * shares['stays']:.1f} % stay")
    return text
