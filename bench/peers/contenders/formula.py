"""Attention by its formula, in double."""

import torch


def scores(q, k, causal=False, rows=None):
    """Of queries [.., n, D], which stand at the positions `rows` when that matters."""
    result = q @ k.mT / q.shape[-1]**0.5
    if causal:
        result.masked_fill_(torch.arange(k.shape[-2]) > rows[:, None], -torch.inf)
    return result


def head_gradients(q, k, v, d_out, causal=False):
    """dq, dk, dv of one head [L, D], and the finite scores' largest magnitude; some queries at a
    time, to save memory."""
    scale, largest_score = q.shape[-1]**-0.5, 0.0
    dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
    for rows in torch.arange(len(q)).split(256):
        of_rows = scores(q[rows], k, causal, rows)
        weights, d_weights = of_rows.softmax(-1), d_out[rows] @ v.mT
        d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdim=True))
        dq[rows] = scale * d_scores @ k
        dk += scale * d_scores.mT @ q[rows]
        dv += weights.mT @ d_out[rows]
        largest_score = max(largest_score, of_rows[of_rows.isfinite()].abs().max().item())
    return dq, dk, dv, largest_score
