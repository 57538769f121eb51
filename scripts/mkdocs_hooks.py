"""Pages of the site that are written elsewhere in the repository: README, the other top pages, the corpus' card."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "emoreg/corpus/README.md": "corpus.md",
}
_LINK = re.compile(r"\]\(([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, their links turned to where the pages are on the site."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_LINK.sub(_on_site, text)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """In pages of docs/, turn links to the others."""
    return _LINK.sub(lambda link: _on_site(link) if link[1].startswith("../") else link[0], markdown)


def _on_site(link: re.Match[str]) -> str:
    target = link[1].removeprefix("../")
    return "](" + PAGES.get(target, target.removeprefix("docs/"))
