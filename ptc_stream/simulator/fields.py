"""Correlated Gaussian fields with an exact covariance, and the random streams behind everything simulated.

The fields come from circulant embedding: the covariance is laid out on a torus that is larger than the
image by the longest lag, its Fourier transform is the power spectrum, and white noise coloured by the root
of that spectrum has exactly this covariance between any two pixels of the image (Wood & Chan 1994,
J. Comput. Graph. Stat. 3, 409). Nothing is approximated but the last bits of the transforms.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from ptc_stream.errors import ConfigurationError

__all__ = ["gaussian_field", "power_spectrum", "random_stream", "skew_coefficient", "skewed_field"]

Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]

# Transforms of covariances whose spectrum touches zero leave values of this order (single precision).
# Smaller, and they would be taken for a covariance that cannot be; larger, and a real one would pass.
_SPECTRUM_ROUNDING = 1e-5


def random_stream(seed: int, *path: str | int) -> np.random.Generator:
    """Make the random stream of one thing in one simulated run.

    Every amplifier of every exposure has a stream of its own, so files can be written in any order,
    by any process, and come out the same.

    Parameters
    ----------
    seed
        Seed of the run.
    *path
        What the numbers are for: purpose, detector, amplifier, exposure and so on.

    Returns
    -------
    numpy.random.Generator
    """
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(int.from_bytes(digest, "big"))))


def power_spectrum(covariances: Float64Array, torus: tuple[int, int]) -> Float32Array:
    """Fourier transform of covariances that are mirrored into the four quadrants of a torus.

    Parameters
    ----------
    covariances : (S, S)
        ``covariances[i, j]`` at lag i along x and j along y; zero at longer lags.
    torus
        Rows and columns of the torus.

    Returns
    -------
    ndarray of float32, (rows, columns // 2 + 1)
        Power at the frequencies of ``scipy.fft.rfft2``, never negative.

    Raises
    ------
    ConfigurationError
        No field has these covariances: the power is negative somewhere.
    """
    rows, columns = torus
    lags = len(covariances)
    plane = np.zeros(torus, dtype=np.float32)
    quadrant = covariances.T  # [i, j] = [x lag, y lag] becomes [y, x]
    # Lag 0 is written by each of the four with the same value.
    flipped_rows = -np.arange(lags) % rows
    flipped_columns = -np.arange(lags) % columns
    plane[:lags, :lags] = quadrant
    plane[flipped_rows, :lags] = quadrant
    plane[:lags, flipped_columns] = quadrant
    plane[np.ix_(flipped_rows, flipped_columns)] = quadrant
    power: Float32Array = scipy.fft.rfft2(plane).real
    lowest = float(power.min())
    if not lowest >= -_SPECTRUM_ROUNDING * float(power.max()):
        raise ConfigurationError(
            f"no random field has these covariances: C_00 = {covariances[0, 0]:.6g}, lowest power "
            f"{lowest:.4g}; the signal is too high or the read noise correlation too strong for this a matrix"
        )
    return np.maximum(power, np.float32(0.0))


def gaussian_field(
    covariances: Float64Array, shape: tuple[int, int], generator: np.random.Generator
) -> Float32Array:
    """Draw a Gaussian field of mean 0 with exactly these covariances.

    Parameters
    ----------
    covariances : (S, S)
        ``covariances[i, j]`` at lag i along x and j along y; zero at longer lags.
    shape
        Rows and columns of the field.
    generator
        Source of the white noise.

    Returns
    -------
    ndarray of float32, (rows, columns)

    Raises
    ------
    ConfigurationError
        No field has these covariances.
    """
    if np.count_nonzero(covariances) == np.count_nonzero(covariances[0, 0]):
        white = generator.standard_normal(shape, dtype=np.float32)
        white *= np.float32(np.sqrt(covariances[0, 0]))
        return white
    # At least image + longest lag, or the two ends of the image would see each other around the torus.
    longest = len(covariances) - 1
    torus = (
        scipy.fft.next_fast_len(shape[0] + longest, real=True),
        scipy.fft.next_fast_len(shape[1] + longest, real=True),
    )
    spectrum = scipy.fft.rfft2(generator.standard_normal(torus, dtype=np.float32), overwrite_x=True)
    spectrum *= np.sqrt(power_spectrum(covariances, torus))
    field: Float32Array = scipy.fft.irfft2(spectrum, s=torus, overwrite_x=True)
    return field[: shape[0], : shape[1]]


def skew_coefficient(skewness: float) -> float:
    """Coefficient c for which x = (z + c (z^2 - 1)) / sqrt(1 + 2 c^2) has this skewness, z standard normal.

    The skewness of x is (6 c + 8 c^3) / (1 + 2 c^2)^(3/2). Poisson charge with read noise stays below 0.1,
    where three rounds of the fixed point are exact to rounding; above 0.5 they would not be.
    """
    coefficient = 0.0
    for _ in range(3):
        coefficient = skewness * (1.0 + 2.0 * coefficient**2) ** 1.5 / (6.0 + 8.0 * coefficient**2)
    return coefficient


def skewed_field(
    covariances: Float64Array,
    skewness: float,
    shape: tuple[int, int],
    generator: np.random.Generator,
) -> Float32Array:
    """Draw a field of mean 0 with exactly these covariances and this skewness of its pixels.

    A Gaussian field z of unit variance goes through the Cornish-Fisher transform of second order. With z
    correlated by r, x is correlated by (r + 2 c^2 r^2) / (1 + 2 c^2); z gets the r that undoes this.

    Parameters
    ----------
    covariances : (S, S)
        ``covariances[i, j]`` at lag i along x and j along y; zero at longer lags.
    skewness
        Third cumulant over sigma cubed, below 0.5.
    shape
        Rows and columns of the field.
    generator
        Source of the white noise.

    Returns
    -------
    ndarray of float32, (rows, columns)

    Raises
    ------
    ConfigurationError
        No field has these covariances.
    """
    variance = float(covariances[0, 0])
    c = skew_coefficient(skewness)
    norm = 1.0 + 2.0 * c**2
    correlation = covariances / variance
    # Root of 2 c^2 r^2 + r = norm * correlation, in the form that stays exact for c -> 0.
    of_normal = 2.0 * norm * correlation / (1.0 + np.sqrt(1.0 + 8.0 * c**2 * norm * correlation))
    z = gaussian_field(of_normal, shape, generator)
    field = z * z
    field -= np.float32(1.0)
    field *= np.float32(c)
    field += z
    field *= np.float32(np.sqrt(variance / norm))
    return field
