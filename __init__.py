"""Self-reorganizing and rejuvenating convolutional networks (Baddar et al. 2021).

Three packages, none of which is imported before it is needed:

- :mod:`rejuvenet.sofm`: the self-organizing feature map, a scikit-learn estimator;
- :mod:`rejuvenet.graph`: channel groups, plans and surgery on named numpy arrays;
- :mod:`rejuvenet.adapters`: PyTorch modules, ONNX files, the command line.
"""

__version__ = "0.1.0"
