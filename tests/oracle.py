"""Equations (1) and (3) to (6) in loops over layers and NumPy float64, written from the paper and sharing no code."""

import numpy as np

PHI = {
    'tanh': np.tanh,
    'relu': lambda h: np.maximum(h, 0),
    'elu': lambda h: np.where(h > 0, h, np.expm1(np.minimum(h, 0))),
    'gelu': lambda h: h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3))),
    'sigmoid': lambda h: 1 / (1 + np.exp(-h)),
    'sign': np.sign,
}

SLOPE = {
    'tanh': lambda h: 1 - np.tanh(h) ** 2,
    'relu': lambda h: (h > 0).astype(float),
    'elu': lambda h: np.where(h > 0, 1.0, np.exp(np.minimum(h, 0))),
    'sigmoid': lambda h: PHI['sigmoid'](h) * (1 - PHI['sigmoid'](h)),
    'sign': np.zeros_like,
}


def forward(W, b, x, phi, gap=None):
    """Lists h_1..h_L and z_0..z_L, z_L being the softmax; with a gap, Algorithm 1's residual network."""
    h, z = [None], [x]
    depth = len(W) - 1
    for layer in range(1, depth + 1):
        pre = z[layer - 1] @ W[layer - 1] + b[layer - 1]
        if gap is not None and layer % gap == 0 and layer > gap:
            pre = pre + z[layer - gap]
        h.append(pre)
        z.append(PHI[phi](pre))
    logits = z[-1] @ W[-1] + b[-1]
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return [*h, logits], [*z, shifted / shifted.sum(axis=1, keepdims=True)]


def source_of(layer, depth, wiring, gap):
    """The index of the layer whose error reaches `layer`; depth + 1 is the output."""
    if wiring == 'direct':
        return depth + 1
    if wiring == 'chain':
        return layer + 1
    return depth + 1 if layer % gap == 0 or layer == depth else layer + 1


def step(W, b, E, x, y, phi, wiring, gap, beta, rule, gamma=1.0, forward_gap=None):
    """One rec-LRA step. E: {layer: matrix}. Returns (dW, db, {layer: dE}, {layer: e})."""
    depth, batch = len(W) - 1, len(x)
    h, z = forward(W, b, x, phi, forward_gap)
    e = {depth + 1: z[depth + 1] - y}
    dE = {}
    for layer in range(depth, 0, -1):
        source = source_of(layer, depth, wiring, gap)
        d = np.zeros_like(h[layer])
        for example in range(batch):
            d[example] = E[layer].T @ e[source][example]
        e[layer] = z[layer] - PHI[phi](h[layer] - beta * d)
        dE[layer] = np.zeros_like(E[layer])
        for example in range(batch):
            if rule == 'hebbian':
                dE[layer] += -gamma * np.outer(e[source][example], d[example]) / batch
            elif rule == 'kp':
                dE[layer] += gamma * np.outer(e[source][example], z[layer][example]) / batch
            elif rule == 'dx':  # of ||z - y||^2, by the chain rule through y alone
                slope = SLOPE[phi](h[layer][example] - beta * d[example])
                pulled = 2 * beta * e[layer][example] * slope
                dE[layer] += gamma * np.outer(e[source][example], pulled) / batch
    dW = [sum(np.outer(z[i][n], e[i + 1][n]) for n in range(batch)) / batch for i in range(depth + 1)]
    db = [e[i + 1].mean(axis=0) for i in range(depth + 1)]
    return dW, db, dE, e
