"""Is one run better than another? Differences on the same samples, with paired intervals and tests.

Needs scored runs only (`geotempo eval` and `geotempo score` write them): the statistics in `scored.jsonl` are enough, no
model, images or store.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geotempo.eval.metrics.bootstrap import FloatArray, cluster_sums
from geotempo.eval.metrics.paired import holm, paired_interval, paired_test
from geotempo.eval.score import RESULTS, SCORED
from geotempo.eval.scorers import METRICS
from geotempo.model.errors import InputError

Key = tuple[str, str]  # sample that was asked, sample that held the truth
_REFERENCES = "references_sha256"


@dataclass(frozen=True)
class ScoredRun:
    """What a comparison needs of a run.

    Attributes:
        name: Folder, for messages.
        results: Content of `results.json`.
        clusters: By task, the image set of each sample.
        statistics: By task and metric, each counted sample's sufficient statistics.
    """

    name: str
    results: dict[str, Any]
    clusters: dict[str, dict[Key, str]]
    statistics: dict[str, dict[str, dict[Key, list[float]]]]


@dataclass(frozen=True)
class Difference:
    """One metric of one task, first system against second; values as printed (times the metric's scale).

    Attributes:
        task: Evaluation task.
        metric: Name of the metric.
        title: Its name for the report.
        first: Score of the first system, its runs pooled.
        second: Score of the second system, its runs pooled.
        runs: Scores of the first system's single runs.
        others: Scores of the second system's single runs.
        low: Lower end of the paired 95 % interval of first minus second.
        high: Its upper end.
        p: Of the paired randomisation test, uncorrected.
        p_holm: Corrected for all tests of the comparison.
        n: Samples counted.
        clusters: Image sets among them, the units that are drawn and exchanged.
    """

    task: str
    metric: str
    title: str
    first: float
    second: float
    runs: tuple[float, ...]
    others: tuple[float, ...]
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    clusters: int

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "difference": self.difference}


def read_run(folder: Path) -> ScoredRun:
    """Read a scored run.

    Raises:
        InputError: The folder holds no scored run, or a broken one.
    """
    clusters: dict[str, dict[Key, str]] = {}
    statistics: dict[str, dict[str, dict[Key, list[float]]]] = {}
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        for line in (folder / SCORED).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            key = (row["id"], row["truth_id"])
            clusters.setdefault(row["task"], {})[key] = row["cluster"]
            for metric, values in row["statistics"].items():
                statistics.setdefault(row["task"], {}).setdefault(metric, {})[key] = values
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder} holds no scored run ({RESULTS} and {SCORED}); finish it with `geotempo eval`, or run: "
                         f"geotempo score {folder}") from None
    return ScoredRun(str(folder), results, clusters, statistics)


def compare_runs(first: Sequence[Path], second: Sequence[Path]) -> list[Difference]:
    """Compare two systems by all metrics of the tasks that all their runs have.

    Args:
        first: Folders of the first system's scored runs, one per seed.
        second: Those of the second system.

    Returns:
        Differences in the order of the first run's report; p-values are corrected for all of them together.

    Raises:
        InputError: A run is not scored, or the runs were not asked the same questions and scored in the same way.
    """
    if repeated := [folder for number, folder in enumerate([*first, *second]) if folder in [*first, *second][:number]]:
        raise InputError(f"{repeated[0]} is given twice; name each run once")
    runs, others = [read_run(folder) for folder in first], [read_run(folder) for folder in second]
    everyone = [*runs, *others]
    for run in everyone[1:]:
        _same_questions(everyone[0], run)
    found = [_difference(task, metric, runs, others) for task, metrics in everyone[0].statistics.items() for metric in metrics
             if all(metric in run.statistics.get(task, {}) for run in everyone)]
    if not found:
        raise InputError(f"the runs share no task and metric; {everyone[0].name} holds {', '.join(everyone[0].clusters)}, "
                         f"{everyone[-1].name} {', '.join(everyone[-1].clusters)}")
    corrected = holm([item.p for item in found])
    return [Difference(**{**asdict(item), "p_holm": p}) for item, p in zip(found, corrected, strict=True)]


def _same_questions(run: ScoredRun, other: ScoredRun) -> None:
    """Refuse runs that cannot be paired.

    Raises:
        InputError: Another store, protocol, reference set or choice of samples in a task that both have.
    """
    if run.results["data_sha256"] != other.results["data_sha256"]:
        raise InputError(f"{run.name} and {other.name} were asked from different stores ({run.results['data']}, "
                         f"{other.results['data']}); evaluate both on one")
    for task in run.clusters.keys() & other.clusters.keys():
        protocols = [one.results["protocol"][task] for one in (run, other)]
        if protocols[0] != protocols[1]:
            raise InputError(f"the task {task!r} was scored by {protocols[0]!r} in {run.name} and by {protocols[1]!r} in "
                             f"{other.name}; scores of different protocols do not compare")
        for metric, facts in run.results["tasks"][task].items():
            if facts.get(_REFERENCES) != other.results["tasks"][task].get(metric, facts).get(_REFERENCES):
                raise InputError(f"{facts['title']} of {run.name} and {other.name} belongs to different reference sets, on "
                                 "which its weights depend; evaluate both on the same samples")
        if odd := run.clusters[task].keys() ^ other.clusters[task].keys():
            raise InputError(f"{run.name} and {other.name} were not asked the same samples of {task!r}: {len(odd)} are in one "
                             f"only, e.g. {min(odd)[0]!r}; evaluate both on the same samples and under the same kind of control")


def _difference(task: str, name: str, runs: Sequence[ScoredRun], others: Sequence[ScoredRun]) -> Difference:
    """One metric of one task; `p_holm` is still the uncorrected p-value."""
    metric = METRICS[name]
    keys = list(runs[0].statistics[task][name])
    clusters = [runs[0].clusters[task][key] for key in keys]
    first, second = (cluster_sums(_rows(side, task, name, keys), clusters) for side in (runs, others))
    low, high = paired_interval(first, second, metric.aggregate)
    p = paired_test(first, second, metric.aggregate)

    def score(sums: FloatArray) -> float:
        return metric.scale * float(metric.aggregate(sums.sum(axis=0)))

    return Difference(task, name, metric.title, score(first.mean(axis=0)), score(second.mean(axis=0)), tuple(map(score, first)),
                      tuple(map(score, second)), metric.scale * low, metric.scale * high, p, p, len(keys), first.shape[1])


def _rows(side: Sequence[ScoredRun], task: str, metric: str, keys: Sequence[Key]) -> FloatArray:
    """Statistics of a system's runs, (runs, n, k)."""
    return np.array([[run.statistics[task][metric][key] for key in keys] for run in side], dtype=np.float64)


def table(found: Sequence[Difference]) -> str:
    """Differences as a Markdown table; scores of single runs stand in brackets where there are several."""
    head = "| task | metric | A | B | A - B | p | p (Holm) | n |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for item in found:
        clear = item.low > 0 or item.high < 0
        change = f"{item.difference:+.2f} [{item.low:+.2f}, {item.high:+.2f}]"
        cells = [item.task, item.title, _pooled(item.first, item.runs), _pooled(item.second, item.others),
                 f"**{change}**" if clear else change, f"{item.p:.4f}", f"{item.p_holm:.4f}", f"{item.n} ({item.clusters} image sets)"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _pooled(value: float, runs: Sequence[float]) -> str:
    return f"{value:.2f}" + (f" ({', '.join(f'{run:.2f}' for run in runs)})" if len(runs) > 1 else "")
