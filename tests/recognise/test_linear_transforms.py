"""Rules for Fourier transforms and complex values: linear maps are their matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from xattr import composites, rules

N = 6
RANDOM = np.random.default_rng(0)
X, BASELINE, V = (RANDOM.standard_normal(N) for _ in range(3))
FILTER = RANDOM.standard_normal(N // 2 + 1) + 1j * RANDOM.standard_normal(N // 2 + 1)
FILTER[[0, -1]] = FILTER[[0, -1]].real  # so that every real filter has this spectrum
MATRIX = RANDOM.standard_normal((N, N)) + 1j * RANDOM.standard_normal((N, N))
FOURIER = np.exp(-2j * np.pi * np.outer(range(N), range(N)) / N)
FOURIER_2 = np.kron(
    np.exp(-2j * np.pi * np.outer(range(2), range(2)) / 2),
    np.exp(-2j * np.pi * np.outer(range(3), range(3)) / 3),
)
KERNEL = np.fft.irfft(FILTER, N)
CIRCULANT = np.array([[KERNEL[(i - j) % N] for j in range(N)] for i in range(N)])
Z = composites.every_layer(rules.zero())


def _half(z):
    """What irfft makes of a spectrum's real and imaginary part, row by row."""
    weight = np.where(np.isin(range(N // 2 + 1), (0, N // 2)), 1, 2) / N
    waves = FOURIER[: N // 2 + 1].conj().T
    return ((waves * weight) @ z).real


LINEAR = {
    "real part": (lambda x: jnp.fft.fft(x).real, FOURIER.real),
    "imaginary part": (lambda x: jnp.fft.fft(x).imag, FOURIER.imag),
    "rfft": (lambda x: jnp.fft.rfft(x).imag, FOURIER.imag[: N // 2 + 1]),
    "fft2": (lambda x: jnp.fft.fft2(x.reshape(2, 3)).imag.ravel(), FOURIER_2.imag),
    "ifft": (lambda x: jnp.fft.ifft(x).imag, -FOURIER.imag / N),
    "filter": (lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * FILTER, N), CIRCULANT),
    "irfft of a real spectrum": (
        lambda x: jnp.fft.irfft(x[: N // 2 + 1].astype(complex), N),
        np.stack([_half(np.eye(N // 2 + 1, N)[:, i]) for i in range(N)], 1),
    ),
    "matrix of complex weights": (lambda x: (x.astype(complex) @ MATRIX).real, MATRIX.real.T),
    "quotient": (lambda x: (jnp.fft.fft(x) / (2 + 1j)).real, (FOURIER / (2 + 1j)).real),
    "conjugate, shifted": (
        lambda x: jnp.fft.fftshift(jnp.conj(-jnp.fft.fft(x))).imag,
        np.fft.fftshift(FOURIER.imag, 0),
    ),
    "two real parts": (
        lambda x: (jax.lax.complex(x, x[::-1]) * (1 + 2j)).imag,
        2 * np.eye(N) + np.eye(N)[::-1],
    ),
    "masked": (
        lambda x: jnp.where(np.arange(N) < 3, jnp.fft.fft(x), 0).imag,
        FOURIER.imag * (np.arange(N) < 3)[:, None],
    ),
    "mean": (lambda x: jnp.mean(jnp.fft.fft(x)).real[None], FOURIER.real.mean(0)[None]),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_transform_is_its_matrix(name, x64):
    """Maps of a transform between two layers with ReLUs are those of a product with its matrix."""
    transform, matrix = LINEAR[name]
    head = V[: len(matrix)]
    first = lambda x: jax.nn.relu(jnp.roll(x, 1) + 0.3 * x)
    np.testing.assert_allclose(transform(jnp.asarray(X)), matrix @ X, atol=1e-12)

    def f(apply, x):
        return jax.nn.relu(apply(first(x))) @ head + jnp.sum(apply(first(x)))

    spectral, dense = (functools.partial(f, a) for a in (transform, lambda x: matrix @ x))
    methods = {
        "lrp": lambda f: xattr.lrp(f, X, Z),
        "lrp with biases": lambda f: xattr.lrp(f, X, Z, bias="include"),
        "deep_lift": lambda f: xattr.deep_lift(f, X, BASELINE),
        "guided": lambda f: xattr.guided_backprop(f, X),
        "deconvnet": lambda f: xattr.deconvnet(f, X),
    }
    for method in methods.values():
        np.testing.assert_allclose(method(spectral), method(dense), atol=1e-12)
    lifted = methods["deep_lift"](spectral)
    np.testing.assert_allclose(lifted.sum(), spectral(X) - spectral(BASELINE), atol=1e-12)


NONLINEAR = {
    "amplitude": (lambda z: jnp.abs(z), lambda re, im: jnp.sqrt(re**2 + im**2)),
    "power": (lambda z: jnp.abs(z) ** 2, lambda re, im: re**2 + im**2),
    "times the conjugate": (lambda z: (z * jnp.conj(z)).real, lambda re, im: re * re + im * im),
    "log amplitude": (
        lambda z: jnp.log(1 + jnp.abs(z)),
        lambda re, im: jnp.log(1 + jnp.sqrt(re**2 + im**2)),
    ),
    "times another": (
        lambda z: (z * z[::-1]).imag,
        lambda re, im: re * im[::-1] + im * re[::-1],
    ),
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_functions_of_a_spectrum_are_those_of_its_parts(name, x64):
    of_complex, of_parts = NONLINEAR[name]
    spectral = lambda x: of_complex(jnp.fft.fft(x)) @ V
    real = lambda x: of_parts(FOURIER.real @ x, FOURIER.imag @ x) @ V
    np.testing.assert_allclose(spectral(X), real(X), rtol=1e-12)
    for method in (
        lambda f: xattr.lrp(f, X, Z),
        lambda f: xattr.lrp(f, X, Z, bias="include"),
        lambda f: xattr.deep_lift(f, X, BASELINE),
        lambda f: xattr.guided_backprop(f, X),
    ):
        np.testing.assert_allclose(method(spectral), method(real), atol=1e-11)
    total = xattr.deep_lift(spectral, X, BASELINE).sum()
    np.testing.assert_allclose(total, spectral(X) - spectral(BASELINE), rtol=1e-11)


HOLOMORPHIC = {
    "wave": lambda x: jnp.exp(x.astype(complex) * 1j).real,
    "cube": lambda x: (jnp.fft.fft(x) ** 3).imag,
    "one over": lambda x: (1 / (jnp.fft.fft(x) + 3)).imag,
    "product of functions of x": lambda x: (
        (x.astype(complex) * jnp.exp(x.astype(complex) * 1j)).real
    ),
    "amplitude again": lambda x: (jnp.fft.fft(x) * jnp.abs(jnp.fft.fft(x)).astype(complex)).imag,
    "gate in Fourier space": lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(x[::-1]), N),
    "a product with an inverse": lambda x: (jnp.fft.fft(x) * (1 / (jnp.fft.fft(x[::-1]) + 3))).imag,
    "a constant added": lambda x: (jnp.fft.fft(x) + (1 + 2j)).imag,
}


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_completeness_of_complex_functions(name, near, x64):
    f = lambda x: HOLOMORPHIC[name](x) @ V
    baseline = X + 1e-7 * BASELINE if near else BASELINE
    for rule in ("rescale", "reveal_cancel"):
        found = xattr.deep_lift(f, X, baseline, variant=rule)
        np.testing.assert_allclose(found.sum(), f(X) - f(baseline), rtol=1e-6 if near else 1e-11)
    if near:  # the multipliers become the gradient, in which real and imaginary part mix
        np.testing.assert_allclose(found, (X - baseline) * jax.grad(f)(X), rtol=1e-4)


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_relevance_of_complex_functions_is_conserved(name, x64):
    f = lambda x: HOLOMORPHIC[name](x) @ V
    np.testing.assert_allclose(xattr.lrp(f, X, Z).sum(), f(X), rtol=1e-10)


def test_what_has_no_rule_is_named(x64):
    """An angle; a quotient of two spectra, for whose multipliers b² + b'² may be 0."""
    x = jnp.asarray(X)
    angle = lambda x: jnp.sum(jnp.angle(jnp.fft.fft(x)))
    for method in (xattr.lrp, xattr.deep_lift, xattr.guided_backprop):
        with pytest.raises(xattr.UncoveredPrimitiveError, match=r"atan2.*test_linear_transforms"):
            method(angle, x)
    quotient = lambda x: jnp.sum((jnp.fft.fft(x) / jnp.fft.fft(x**2 + 1)).real)
    np.testing.assert_allclose(xattr.lrp(quotient, x, Z).sum(), quotient(x), rtol=1e-10)
    with pytest.raises(xattr.UncoveredPrimitiveError, match=r"div.*test_linear_transforms"):
        xattr.deep_lift(quotient, x, BASELINE)
    half = lambda x: jax.lax.complex(x, jnp.ones(N)).imag @ V + x[0]
    with pytest.raises(xattr.UncoveredPrimitiveError, match=r"complex.*test_linear_transforms"):
        xattr.lrp(half, x)
    np.testing.assert_allclose(xattr.deep_lift(half, x).sum(), x[0])


def test_deep_taylor_explain_and_a_batch():
    def f(x):
        h = jax.nn.relu(jnp.fft.irfft(jnp.fft.rfft(x) * FILTER.astype(np.complex64), N))
        return jnp.sum(h) + jnp.sum(jnp.abs(jnp.fft.fft(h)))

    xs = jnp.asarray(RANDOM.standard_normal((3, N)), jnp.float32)
    kinds = {row.kind: row for row in xattr.explain(f, xs[0]).operations}
    assert kinds["complex"].covered == ("guided", "lrp", "deep_lift", "patterns")
    for method in (xattr.deep_taylor, xattr.lrp, xattr.deep_lift, xattr.guided_backprop):
        batch = jax.jit(jax.vmap(functools.partial(method, f)))(xs)
        assert batch.dtype == jnp.float32
        np.testing.assert_allclose(batch[1], method(f, xs[1]), rtol=2e-4, atol=1e-5)
    report = xattr.relevance_report(f, xs[0], Z)
    np.testing.assert_allclose(report.absorbed, 0, atol=1e-4)


def test_no_rule_of_layers_reads_the_signs_of_complex_weights(x64):
    f = lambda x: (
        (x.astype(complex) @ MATRIX).imag[0] + (jnp.fft.fft(x) * V.astype(complex)).real.sum()
    )
    expected = X * (MATRIX.imag[:, 0] + V @ FOURIER.real)
    for rule in (rules.zero(), rules.epsilon(0.1), rules.gamma(), rules.alpha_beta()):
        found = xattr.lrp(f, X, composites.every_layer(rule))
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_zero_amplitude_gets_nothing(x64):
    f = lambda x: jnp.sum(jnp.abs(jnp.fft.fft(x)) * V)
    for x in (np.zeros(N), np.ones(N)):
        for method in (xattr.lrp, xattr.deep_lift, xattr.guided_backprop):
            assert np.isfinite(method(f, jnp.asarray(x))).all()
    np.testing.assert_allclose(xattr.deep_lift(f, np.ones(N)).sum(), N * V[0], rtol=1e-12)
