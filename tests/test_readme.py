"""The README's examples run as they are written, and the links of all READMEs lead somewhere."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ("README.md", "configs/README.md", "configs/studies/README.md", "launch/README.md")


def prose(page: pathlib.Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_examples_run(capsys):
    """In one namespace, as in a notebook; AutoAttack is shortened, as it takes a minute."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    training, judging = (len(block.splitlines()) for block in blocks)
    assert training <= 25 and judging <= 5
    namespace = {"__name__": "readme"}
    for block in blocks:
        attacks = re.subn(r'(attack\(.*?)"standard"', r'\1"apgd_ce5"', block)
        assert attacks[1]
        exec(compile(attacks[0], "README.md", "exec"), namespace)
    assert namespace["on_plain"].clean_accuracy > 0.7 and namespace["on_robust"].clean_accuracy > 0.7
    assert namespace["on_robust"].robust_accuracy > namespace["on_plain"].robust_accuracy
    shown = capsys.readouterr().out
    assert shown.count("worst class (") == 3 and shown.count("B - A") == 1


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            target = target / "README.md" if target.is_dir() else target
            assert anchor in anchors(target), link
