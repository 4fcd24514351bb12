import numpy as np


def pareto_oracle(log_w):
    """Compute k-hat by the formulas of its sources, in float64, with loops in place of vectorised code."""
    log_w = np.sort(np.float64(log_w))
    size = min(len(log_w) // 5, int(np.ceil(3 * np.sqrt(len(log_w)))))
    threshold, tail = log_w[-size - 1], log_w[-size:]
    x = np.exp(tail - tail[-1]) - np.exp(threshold - tail[-1])
    points = 30 + int(np.sqrt(size))
    theta = [
        1 / x[-1] + (1 - np.sqrt(points / (j - 0.5))) / (3 * x[int(size / 4 + 0.5) - 1])
        for j in range(1, points + 1)
    ]
    shapes = [np.mean(np.log1p(-t * x)) for t in theta]
    profile = [size * (np.log(-t / k) - k - 1) for t, k in zip(theta, shapes, strict=True)]
    weights = [1 / np.sum(np.exp(np.array(profile) - own)) for own in profile]
    best = np.dot(weights, theta)
    return (size * np.mean(np.log1p(-best * x)) + 5) / (size + 10)
