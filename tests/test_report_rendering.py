"""Templates: what is escaped where, by the end of a template's name."""

import jinja2
import pytest

from compressor.report import rendering
from compressor.report.rendering import Verbatim, render

NAME = "<b>*a|b*</b> & c"


@pytest.fixture
def templates(monkeypatch):
    """A function that puts a template of this text in the place of all others, under a name."""

    def put(name, text):
        monkeypatch.setattr(rendering._ENVIRONMENT, "loader", jinja2.DictLoader({name: text}))

    rendering._ENVIRONMENT.cache.clear()
    yield put
    rendering._ENVIRONMENT.cache.clear()


def test_html_escapes_text_as_html_alone(templates):
    templates("a.html.j2", "<i>{{ name }}</i>\n")

    assert render("a.html.j2", name=NAME) == "<i>&lt;b&gt;*a|b*&lt;/b&gt; &amp; c</i>\n"


def test_markdown_escapes_text_as_markdown_unless_it_is_verbatim(templates):
    templates("a.md.j2", "**{{ name }}** {{ 1.5 }} {{ known }}\n")

    text = render("a.md.j2", name=NAME, known=Verbatim("*b* & c"))

    assert text == r"**&lt;b&gt;\*a&#124;b\*&lt;/b&gt; &amp; c** 1.5 *b* & c" + "\n"


def test_a_template_of_any_other_name_is_taken_for_html(templates):
    templates("a.txt", "{{ name }}")

    assert render("a.txt", name="<b>") == "&lt;b&gt;"


def test_a_value_that_is_not_given_is_an_error(templates):
    templates("a.html.j2", "{{ name }}")

    with pytest.raises(jinja2.UndefinedError, match="name"):
        render("a.html.j2")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("a\nb", "a b"),
        ("<script>", "&lt;script&gt;"),
        ("[l](u) ![i](u)", r"\[l\](u) \!\[i\](u)"),
        ("`c` *_x_*", r"\`c\` \*\_x\_\*"),
        ("a|b \\|", r"a&#124;b \\&#124;"),
        ("#1 & ~~s~~ &#124;", r"\#1 &amp; \~\~s\~\~ &amp;\#124;"),
    ],
)
def test_markdown_shows_names_as_they_are(text, shown):
    assert rendering.escape_markdown(text) == shown
