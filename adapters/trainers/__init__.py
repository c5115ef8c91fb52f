"""Algorithm 1 in the training loops of others.

- :mod:`rejuvenet.adapters.trainers.lightning`: a callback for Lightning 2.x;
- :mod:`rejuvenet.adapters.trainers.transformers`: a callback for Hugging Face's Trainer;
- :mod:`rejuvenet.adapters.trainers.ignite`: a handler for PyTorch Ignite;
- :mod:`rejuvenet.adapters.trainers.metrics`: the figures of a report, for any logger.

The first three import their framework when they are imported themselves, and nothing else does.
In a loop of one's own, in timm's, and with Accelerate,
:class:`rejuvenet.adapters.torch.Reorganizer` is used as it is.

Every event takes place right before the first batch of the next epoch.  Checkpoints are written
before or after what a framework does at the end of an epoch; wherever that is, a training that
is resumed neither loses an event nor repeats one.
"""

__all__: list[str] = []
