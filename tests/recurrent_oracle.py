"""Equations (1) and (3) to (6) of an Elman network in loops over steps and examples, in NumPy; shares no code."""

import numpy as np


def source_of(step, steps, through):
    """Where the error of a step comes from besides its own output: the next step, or None if there is none."""
    size = {'none': 1, 'chain': steps}.get(through, through)
    window, above = ((steps - 1 - t) // size for t in (step, step + 1))
    return step + 1 if step + 1 < steps and window == above else None


def step(params, E, x, labels, through, every_step, beta):
    """One step of rec-LRA with errors over beta and the rule of Kolen and Pollack, the state's phi being tanh.

    Args:
      params: W [m, n], U [n, n], b [n], V [n, classes] and c [classes] by name.
      E: U and V of the error's own; and, by step, [classes, n] of those that hear the output from afar.
      x: [B, T, m].
      labels: a class for each example, or for each example and step.
      through: 'none', 'chain' or the steps of a window.
      every_step: whether each step has an output.
      beta: of Eq. 3.

    Returns:
      (updates like params, {step: update of E from afar}).
    """
    W, U, b, V, c = (params[name] for name in 'WUbVc')
    size, steps, _ = x.shape
    updates = {name: np.zeros_like(value) for name, value in params.items()}
    afar = {t: np.zeros_like(own) for t, own in E.items() if t not in ('U', 'V')}
    for example in range(size):
        h, z = [], [np.zeros(len(b))]
        for t in range(steps):
            h.append(x[example, t] @ W + z[-1] @ U + b)
            z.append(np.tanh(h[-1]))
        e_out = {}
        for t in range(steps) if every_step else [steps - 1]:
            odds = np.exp(z[t + 1] @ V + c)
            label = labels[example, t] if every_step else labels[example]
            e_out[t] = odds / odds.sum() - np.eye(len(c))[label]
            e_out[t] /= len(range(steps)) if every_step else 1  # an example's loss is the mean over its steps
            updates['V'] += np.outer(z[t + 1], e_out[t]) / size
            updates['c'] += e_out[t] / size
        e = {}
        for t in reversed(range(steps)):
            d, source = np.zeros(len(b)), source_of(t, steps, through)
            if t in e_out:
                d += E['V'] @ e_out[t]
            if source is not None:
                d += E['U'] @ e[source]
            if t in afar:
                d += e_out[steps - 1] @ E[t]
                afar[t] += np.outer(e_out[steps - 1], z[t + 1]) / size
            e[t] = (z[t + 1] - np.tanh(h[t] - beta * d)) / beta
            updates['W'] += np.outer(x[example, t], e[t]) / size
            updates['U'] += np.outer(z[t], e[t]) / size
            updates['b'] += e[t] / size
    return updates, afar
