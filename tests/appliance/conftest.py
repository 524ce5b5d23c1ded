"""The command line in this process, as a shell would see it."""

from collections.abc import Callable

import pytest

from appliance.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `cloche` with the given words; returns exit code, stdout and stderr."""

    def cloche(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            main(list(words))
        said = capsys.readouterr()
        return int(leaving.value.code or 0), said.out, said.err

    return cloche
