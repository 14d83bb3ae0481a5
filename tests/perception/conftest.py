"""The networks for the tests of perception, from the model cache; fetched on first use."""

from __future__ import annotations

import numpy as np
import pytest

from headrecon.errors import NetworkUnavailable
from headrecon.perception.faces import observe_faces
from headrecon.perception.networks import Networks, load_networks
from headrecon.structures import FaceObservation


@pytest.fixture(scope="session")
def networks() -> Networks:
    try:
        return load_networks(num_threads=2)
    except NetworkUnavailable as error:
        pytest.skip(f"needs the networks: {error}")


@pytest.fixture(scope="session")
def astronaut(astronaut_image: np.ndarray, networks: Networks) -> FaceObservation:
    (observation,) = observe_faces(astronaut_image, networks)
    return observation
