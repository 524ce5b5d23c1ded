"""The tiny model of the floor below, opened once for this folder too."""

from tests.train.conftest import features as features
from tests.train.conftest import loaded as loaded
from tests.train.conftest import tiny_model as tiny_model
