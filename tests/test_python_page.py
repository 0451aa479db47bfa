"""docs/python.md: every example is run, in the order of the page."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.starts
@pytest.mark.trains
def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES) == 6
    program: dict[str, object] = {"__name__": "page"}

    for number, example in enumerate(EXAMPLES, 1):
        try:
            exec(compile(example, f"example {number}", "exec"), program)
        except Exception as error:
            pytest.fail(f"example {number} of {PAGE.name} fails: {type(error).__name__}: {error}")

    said = capsys.readouterr().out
    assert re.search(r"^\d+\.\d % of \d+\.\d %$", said, re.MULTILINE)
    assert "export/student.fp16.onnx" in said
