"""Docstrings begin with their subject: a noun that the reader does not have to look up elsewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "interp"

PRONOUN = re.compile(
    r"""(?x)
    (The\ (same|ones?|others?) | Th(at|ose|is|ese|ey) | Its? | One | What | Who(se)? | Which | Where | When
    | How(?!\ (many|much|often)\b) | Of | By | In | As | At | For | From | With | To | Some(body|one|thing)
    | Any(body|one|thing) | Every(body|one|thing) | No(body|thing|ne) | All\ (that|of) | Another | Such)\b
    """
)
"""Words that begin a first sentence whose subject is a pronoun, a question, or missing."""


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of the docstrings of a module, its classes, functions, constants and fields."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        for before, statement in zip([node, *node.body], node.body):
            match statement:
                case ast.Expr(ast.Constant(str(text))) if before is node or isinstance(
                    before, ast.Assign | ast.AnnAssign
                ):
                    yield statement.lineno, text


def without_subject(source: str) -> list[str]:
    """First lines of the docstrings that begin with a pronoun or a preposition, with their line numbers."""
    return [f"{line}: {text.splitlines()[0]}" for line, text in docstrings(source) if PRONOUN.match(text)]


@pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_docstrings_name_their_subject(path):
    assert without_subject(path.read_text()) == []


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("What the model says where an answer is due.", 1),
        ("The same for the test inputs.", 1),
        ("Of a figure, so that it stays a small file.", 1),
        ("One of the two losses.", 1),
        ("Logits at the answer position.", 0),
        ("Whether values are cached on disk.", 0),
        ("Whatever.", 0),
        ("How many neurons have more than `threshold` of their variance in a frequency.", 0),
        ("Theoretical accuracy.", 0),
    ],
)
def test_a_missing_subject_is_seen(docstring, found):
    sources = [
        f'"""{docstring}"""\n',
        f'def f():\n    """{docstring}"""\n',
        f'class C:\n    """{docstring}"""\n',
        f'class C:\n    x: int = 3\n    """{docstring}"""\n',
        f'N = 3\n"""{docstring}"""\n',
    ]
    assert [len(without_subject(source)) for source in sources] == [found] * len(sources)
