"""Metrics as pure functions on python and numpy values, usable alone on any model's predictions; no torch here.

Every module has `score(...)`, which takes answers and truth and returns a dict: scores times 100 (counts: objects),
`n`, and the name of the `protocol` that was followed; each module's `PROTOCOLS` says what the names mean.

- `caption`: BLEU-1 to 4, ROUGE-L, CIDEr-D, METEOR-exact-stem (or METEOR-1.5 by Java), S*m; recall of change
- `vqa`: OA and AA of short answers; `counting`: MAE, RMSE; `localisation`: cells of a 3 x 3 grid
- `temporal`: which images (accuracy, set-F1), between which dates
- `grounding`: one box (Pr@t, mean and cumulative IoU); `boxes`: lists of boxes, one-to-one (precision, recall, F1)
- `masks`: Pr@t, mIoU, gIoU, oIoU; `change`: binary change, LEVIR-MCI, SECOND (mIoU, SeK, Fscd), xView2
- `retrieval`: R@K, P@K, mR, MRR
- `teochat`: TEOChat's 17 splits, bug for bug and strictly, side by side
- `lines`: all of them from a file of `{"id", "prediction", "references"}`; `bootstrap`: 95 % intervals

Below `score` lie rows of sufficient statistics, one per sample, that may be added: `statistics` (in `change`
`confusions`), and functions from sums to scores as fractions 0-1. A score is strict where an unreadable answer counts
as the worst that could have been given: means over samples are; of the pooled scores, TEOChat's in strict mode and
masks under the protocol `strict`. Corpus scores of captions (BLEU, METEOR) are not: a bad caption left out can raise them.
"""
