"""A transformer's regions forwards and backwards in NumPy float64, head by head, sharing no code with the package."""

import numpy as np

PHI = {'tanh': np.tanh, 'sign': np.sign}


def normed(x, scale):
    """(layer normalisation without a bias, what its backward pass needs)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return centred * inverse * scale, (centred * inverse, inverse)


def normed_back(d, scale, kept):
    """(the error below, the gradient of the scale)."""
    unit, inverse = kept
    g = d * scale
    below = inverse * (g - g.mean(axis=-1, keepdims=True) - unit * (g * unit).mean(axis=-1, keepdims=True))
    return below, (d * unit).sum(axis=(0, 1))


def attention(a, P, causal):
    """(`[B, T, width]`, what its backward pass needs); query, key, value [width, heads, n], out [heads, n, width]."""
    out, kept, T = np.zeros_like(a), [], a.shape[1]
    for head in range(P['query'].shape[1]):
        q, k, v = (a @ P[name][:, head] for name in ('query', 'key', 'value'))
        logits = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        if causal:
            logits = np.where(np.tril(np.ones((T, T), bool)), logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out += weights @ v @ P['out'][head]
        kept.append((q, k, v, weights))
    return out, kept


def attention_back(e, a, E, kept):
    """(the error below, {kernel: gradient}): E in the place of kernels, activities as they passed."""
    below, grads = np.zeros_like(a), {name: np.zeros_like(kernel) for name, kernel in E.items()}
    for head, (q, k, v, weights) in enumerate(kept):
        grads['out'][head] = np.einsum('btn,btw->nw', weights @ v, e)
        pulled = e @ E['out'][head].T
        d_weights = pulled @ v.swapaxes(1, 2)
        d_logits = weights * (d_weights - (d_weights * weights).sum(axis=-1, keepdims=True)) / np.sqrt(q.shape[-1])
        parts = {'query': d_logits @ k, 'key': d_logits.swapaxes(1, 2) @ q, 'value': weights.swapaxes(1, 2) @ pulled}
        for name, d in parts.items():
            grads[name][:, head] = np.einsum('btw,btn->wn', a, d)
            below += d @ E[name][:, head].T
    return below, grads


class Pass:
    """A forward pass of a language model of depth blocks, and the way back through each region.

    Args:
      P: {'embed', 'positions', 'block_1': {'attention': {...}, 'attention_norm', 'mlp_norm', 'up', 'down'}, 'norm',
        'readout'}.
      tokens: int [B, T].
      phi: 'tanh' or 'sign'.
    """

    def __init__(self, P, tokens, phi):
        self.P, self.tokens, self.phi = P, tokens, PHI[phi]
        self.h, self.kept, z = {}, {}, P['embed'][tokens] + P['positions'][: tokens.shape[1]]
        self.depth = sum(name.startswith('block') for name in P)
        for index in range(1, self.depth + 1):
            block, name = P[f'block_{index}'], f'block_{index}'
            a, kept_norm = normed(z, block['attention_norm'])
            mixed, kept = attention(a, block['attention'], causal=True)
            z = self.h[f'{name}/attention_sum'] = z + mixed
            self.kept[f'{name}/attention_sum'] = a, kept_norm, kept
            a, kept_norm = normed(z, block['mlp_norm'])
            self.h[f'{name}/act'] = a @ block['up']
            self.kept[f'{name}/act'] = a, kept_norm
            z = self.h[f'{name}/mlp_sum'] = z + self.phi(self.h[f'{name}/act']) @ block['down']
        a, kept_norm = normed(z, P['norm'])
        self.h['output'], self.kept['output'] = a @ P['readout'], (a, kept_norm)

    def activate(self, region, h):
        return self.phi(h) if region.endswith('act') else h

    def back(self, region, e, E):
        """({region below: error}, {path of a parameter: gradient of <h, e>}) with E in the place of the parameters."""
        if region == 'output':
            a, kept = self.kept[region]
            below, scale = normed_back(e @ E['readout'].T, E['norm'], kept)
            readout = np.einsum('btw,btv->wv', a, e)
            return {f'block_{self.depth}/mlp_sum': below}, {'readout/kernel': readout, 'norm/scale': scale}
        block, part = region.split('/')
        own, index = E[block], int(block[6:])
        if part == 'mlp_sum':
            act = self.phi(self.h[f'{block}/act'])
            down = np.einsum('btw,btv->wv', act, e)
            return {f'{block}/act': e @ own['down'].T, f'{block}/attention_sum': e}, {f'{block}/down/kernel': down}
        if part == 'act':
            a, kept = self.kept[region]
            below, scale = normed_back(e @ own['up'].T, own['mlp_norm'], kept)
            up = np.einsum('btw,btv->wv', a, e)
            return {f'{block}/attention_sum': below}, {f'{block}/up/kernel': up, f'{block}/mlp_norm/scale': scale}
        a, kept_norm, kept = self.kept[region]
        mixed, kernels = attention_back(e, a, own['attention'], kept)
        below, scale = normed_back(mixed, own['attention_norm'], kept_norm)
        grads = {f'{block}/attention/{name}/kernel': g for name, g in kernels.items()}
        grads[f'{block}/attention_norm/scale'] = scale
        below = below + e
        if index > 1:
            return {f'block_{index - 1}/mlp_sum': below}, grads
        embed = np.zeros_like(E['embed'])
        np.add.at(embed, self.tokens, below)
        positions = np.zeros_like(E['positions'])
        positions[: self.tokens.shape[1]] = below.sum(axis=0)
        return {}, {**grads, 'embed/embedding': embed, 'positions': positions}


def step(P, E, straight, tokens, label, phi, beta):
    """rec-LRA's updates {path: array}, errors divided by beta.

    Args:
      P: the parameters, as `Pass` takes them.
      E: what stands for them on errors' ways back, in the same tree.
      straight: {region: [classes, channels]}, synapses from the output, position by position. Other regions hear those
        that they feed.
      tokens: int [B, T].
      label: int [B, T].
      phi: 'tanh' or 'sign'.
      beta: of Eq. 3.
    """
    seen = Pass(P, tokens, phi)
    B, T = tokens.shape
    odds = np.exp(seen.h['output'] - seen.h['output'].max(axis=-1, keepdims=True))
    e = {'output': (odds / odds.sum(axis=-1, keepdims=True) - np.eye(odds.shape[-1])[label]) / T}
    d = {region: e['output'] @ own for region, own in straight.items()}
    updates = {}
    for region in reversed(seen.h):
        if region != 'output':
            h = seen.h[region]
            e[region] = (seen.activate(region, h) - seen.activate(region, h - beta * d[region])) / beta
        for below, error in seen.back(region, e[region], E)[0].items():
            if below not in straight:
                d[below] = d.get(below, 0) + error
        updates |= seen.back(region, e[region] / B, P)[1]
    return updates
