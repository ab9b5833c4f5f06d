"""Every module at the top of the package explains itself."""

from importlib import import_module

import pytest

from segtune.core.fingerprints import SOURCE

COMMANDS = sorted(path.stem for path in SOURCE.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        import_module(f"segtune.{command}").main(["--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: segtune.{command} ")
    described = text.partition("\n\n")[2].partition("\n\noptions:")[0]
    assert described.strip()
