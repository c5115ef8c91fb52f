r"""The exact search for winners, fast: what is where, and how to change it.

The winner of a sample ``x`` (eq. 5) is the node with the smallest squared distance, and

.. math::  |x - w_k|^2 = |x|^2 + 2 s_k , \qquad s_k = |w_k|^2 / 2 - x \cdot w_k ,

so that the smallest *score* wins.  Scores of all nodes are a matrix product, which processors do
well, and float32 is twice as fast as float64.  The search computes float32 scores, knows how wrong
they can be, and lets float64 differences decide what they leave open: its winners are those of a
float64 search over all nodes, at the price of the product.

===================  ==============================================================================
:mod:`.vectors`      instructions that Numba does not offer, each with a portable twin
:mod:`.tile`         the micro-kernel: scores of ``TILE_ROWS`` samples for a *panel* of ``PANEL``
                     nodes, in registers
:mod:`.search`       rows in blocks: their scores, the winners these leave, what the rows add to
                     sums, counts and error
:mod:`.block`        what a search reads of a codebook, and its memory
:mod:`.balls`        panels that are too far from a sample to hold its winner are left out
:mod:`.prepared`     a codebook made ready: centred, scaled, its scores lowered by what rounding can
                     cost; a search in few directions; a pilot that measures which is fastest
===================  ==============================================================================

**Reading order**: :mod:`.tile`, :mod:`.search`, :mod:`.prepared`; the others can be left
for later.  A search without directions and balls is complete and exact; both only save work.

**Rules.**  Kernels take arrays and named tuples of arrays and return numbers; they know nothing of
estimators, threads or forms of data.  Every instruction and kernel has a slow twin in the tests
(``tests/sofm/naive.py``), and runs without the JIT (``NUMBA_DISABLE_JIT=1``).  Loops over rows are
inside of kernels: a call with many arrays takes as long as a row.  A constant that was measured
says so; ``tests/benchmarks/sofm.py`` measures again.
"""
