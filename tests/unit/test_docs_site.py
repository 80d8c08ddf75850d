"""What the site's Markdown reads otherwise than GitHub's is written for it."""

from __future__ import annotations

import pytest

pytest.importorskip("mkdocs")

from tools.docs_site import deeper_lists, plain_fences

WRITTEN = """\
1. **Install.** In a terminal:

   ```sh own
   cd here
     deeper
   ```

2. Next
   line

Text
   as it is
"""
READ = """\
1. **Install.** In a terminal:

    ```sh
    cd here
      deeper
    ```

2. Next
    line

Text
   as it is
"""


def test_what_belongs_to_an_item_is_indented_by_four_and_fences_are_named_by_their_language() -> None:
    assert plain_fences(deeper_lists(WRITTEN)) == READ


def test_lists_within_lists() -> None:
    assert deeper_lists("- a:\n  - b\n  c\nd") == "- a:\n    - b\n    c\nd"
