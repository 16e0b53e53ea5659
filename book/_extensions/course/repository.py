"""The addresses of the repository and of the published book, on the pages of whoever publishes them."""

import os


def setup(app):
    """Register the step; it reads BOOK_REPOSITORY_URL, BOOK_BRANCH and BOOK_BASE_URL."""
    app.connect("config-inited", _name_the_repository)


def _name_the_repository(app, config):
    """Take the addresses of the repository and of the published book from the environment, where it has them."""
    repository = os.environ.get("BOOK_REPOSITORY_URL")
    if repository:
        config.html_theme_options |= {
            "repository_url": repository,
            # The theme knows github.com and its like by name, and asks for every other host.
            "repository_provider": next((name for name in ("gitlab", "bitbucket") if name in repository), "github"),
            "repository_branch": os.environ.get("BOOK_BRANCH", "main"),
            "use_repository_button": True,
            "use_issues_button": True,
            "use_edit_page_button": True,
        }
    config.html_baseurl = os.environ.get("BOOK_BASE_URL", config.html_baseurl)
