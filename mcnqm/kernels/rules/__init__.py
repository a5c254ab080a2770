"""One step's arithmetic of every optimizer of the package; to import this is to register it."""

from mcnqm.kernels.rules import adam, ademamix, nadam, probe, rmsprop, schedule_free, sgd, sign

__all__ = ["adam", "ademamix", "nadam", "probe", "rmsprop", "schedule_free", "sgd", "sign"]
