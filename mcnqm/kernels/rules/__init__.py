"""One step's arithmetic of every optimizer of the package; to import this is to register it."""

from mcnqm.kernels.rules import adam, rmsprop, sgd, sign

__all__ = ["adam", "rmsprop", "sgd", "sign"]
