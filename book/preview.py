"""Make book/_static/preview.png, what a preview of a link to the book shows: the first screen of the built book.

python book/preview.py
"""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SIZE = {"width": 1200, "height": 630}  # what the sites that show previews ask for
HIDDEN = ".bd-sidebar-primary, .bd-header-article { display: none !important } .bd-article { padding: 2rem 3rem }"


def main():
    """Draw the picture; the book has to be built."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light", reduced_motion="reduce")
        page.goto((ROOT / "_build" / "html" / "book" / "intro.html").as_uri())
        page.add_style_tag(content=HIDDEN)
        page.get_by_role("button", name="Next").click(click_count=4)
        page.screenshot(path=ROOT / "book" / "_static" / "preview.png")
        browser.close()


if __name__ == "__main__":
    main()
