"""The physics of the Photon Transfer Curve: arrays and numbers in, arrays and numbers out.

Usable on its own, in a notebook, with numpy arrays from anywhere. No I/O, no clock, no global state.

Notation (Astier et al. 2019, A&A 629 A36, arXiv:1905.08677)
-----------------------------------------------------------
==============  =================  =========  ==========================================================
symbol          name in the code   unit       meaning
==============  =================  =========  ==========================================================
mu              ``mean``           ADU        mean signal of a flat pair, the average of both exposures
C_00            ``variance``       ADU^2      half the variance of the difference image
C_ij            ``covariances``    ADU^2      half the covariance of the difference image at lag (i, j)
n_pix           ``pixel_count``    1          pixel pairs behind each C_ij
g               ``gain``           e-/ADU     electrons = gain * ADU
sqrt(n_00)      ``read_noise``     e-         noise at zero signal
n_ij            ``noise_matrix``   e-^2       covariance of the noise at zero signal
a_ij            ``a_matrix``       1/e-       strength of the brighter-fatter effect; a_00 < 0 in real CCDs
b_ij            ``b_matrix``       1/e-       its change with stored charge
..              ``turnoff``        ADU        signal above which the variance falls below the model
==============  =================  =========  ==========================================================

**Index order, stated once.** ``covariances[i, j]`` has i = lag along x (serial) and j = lag along y
(parallel). Images are ``[y, x]``. A test with an asymmetric kernel holds everybody to it.
"""
