"""The delayed semantics of the stage pipeline in NumPy, one microbatch and stage at a time; shares no code."""

import math

import numpy as np


def train(kernels, biases, synapses, images, labels, *, stages, shares, microbatches, beta, rates, noise=None):
    """Trains an MLP of tanh units, wired straight from the output by rule kp or mirror, by plain SGD.

    Microbatch m of a batch meets in stage s weights that lack the last ceil((S - 1 - s - m) / M) updates, or those
    since the start where there are fewer. Its errors and updates are of what it found there. Mirrors look at the same
    examples, but with weights that lack no update but the batch's own.

    Args:
      kernels, biases: from the input up, the readout last.
      synapses: for each hidden layer [classes, n].
      images: [K, B, n], a batch a step.
      labels: [K, B].
      stages: for each layer the number of its stage.
      shares: devices among which a batch is shared.
      microbatches: M, of each share.
      beta: of Eq. 3.
      rates: step sizes of weights and of synapses.
      noise: for each hidden layer what to add to its activity [K, B, n], entries s or -s; rule kp if None.

    Returns:
      (kernels, biases, synapses, logits [K, B, classes]).
    """
    past = [(kernels, biases)]  # after so many updates
    top, found = max(stages), []
    for step, (x, label) in enumerate(zip(images, labels, strict=True)):
        passed, order = [], np.arange(len(x)).reshape(shares, microbatches, -1)
        for m in range(microbatches):
            h, activities = [], [x[order[:, m].ravel()]]
            for layer, s in enumerate(stages):
                W, b = past[step - min(step, max(0, math.ceil((top - s - m) / microbatches)))]
                h.append(activities[-1] @ W[layer] + b[layer])
                activities.append(np.tanh(h[-1]))
            passed.append((h, activities))
        back = np.argsort(order.transpose(1, 0, 2).ravel())
        h, z = ([np.concatenate(parts)[back] for parts in zip(*of, strict=True)] for of in zip(*passed, strict=True))
        found.append(h[-1])
        odds = np.exp(h[-1] - h[-1].max(axis=1, keepdims=True))
        e_out = odds / odds.sum(axis=1, keepdims=True) - np.eye(h[-1].shape[1])[label]
        e = [z[i + 1] - np.tanh(h[i] - beta * e_out @ E) for i, E in enumerate(synapses)] + [e_out]
        W, b = past[-1]
        size = len(label)
        past.append(
            (
                [w - rates[0] * z[i].T @ e[i] / size for i, w in enumerate(W)],
                [v - rates[0] * e[i].mean(axis=0) for i, v in enumerate(b)],
            )
        )
        if noise is None:
            pairs, scale = [(e_out, z[i + 1]) for i in range(len(synapses))], 1
        else:
            xi = [layer[step] for layer in noise]
            missed = response(W, b, x, xi) - sum(own @ E.T for own, E in zip(xi, synapses, strict=True))
            pairs = [(-missed, own) for own in xi]
            units = sum(own.shape[1] for own in xi)
            scale = abs(xi[0][0, 0]) ** 2 * (1 + units / size)
        synapses = [
            E - rates[1] * source.T @ target / size / scale for E, (source, target) in zip(synapses, pairs, strict=True)
        ]
    return *past[-1], synapses, np.stack(found)


def response(W, b, x, xi):
    """Half the difference between the logits with the noise xi on every hidden layer's activity and with -xi."""
    found = []
    for sign in (1, -1):
        z = x
        for w, v, own in zip(W[:-1], b[:-1], xi, strict=True):
            z = np.tanh(z @ w + v) + sign * own
        found.append(z @ W[-1] + b[-1])
    return (found[0] - found[1]) / 2
