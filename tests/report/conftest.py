from tests.experiments.conftest import edited, here, results, sample

__all__ = ["edited", "here", "results", "sample"]
