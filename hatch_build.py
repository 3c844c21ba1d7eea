"""What a built package says beside pyproject.toml: its addresses, and a README whose links work.

A package index shows README without the files beside it, so each relative link becomes an address
below the repository's: that of REPOSITORY_URL, or of the clone's remote `origin`. A build that has
neither keeps the words of each link and names no address.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)")
"""A Markdown link or image whose target is a file of the repository."""


class Addresses(MetadataHookInterface):
    """The hook that hatchling calls at each build."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        address = repository(Path(self.root))
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, address)}
        if address:
            metadata["urls"] = {
                "Repository": address,
                "Documentation": f"{address}/tree/main/docs",
                "Changelog": f"{address}/blob/main/CHANGELOG.md",
                "Issues": f"{address}/issues",
            }


def repository(root: Path) -> str | None:
    """The repository's https address, or None."""
    found = os.environ.get("REPOSITORY_URL", "")
    if not found:
        try:
            asked = ["git", "-C", str(root), "remote", "get-url", "origin"]
            found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        except OSError:  # no git
            return None
    found = re.sub(r"^git@([^:]+):", r"https://\1/", found.strip()).removesuffix(".git").rstrip("/")
    # a password or token in a remote is not for others
    found = re.sub(r"^https://[^/@]*@", "https://", found)
    return found if found.startswith("https://") else None


def absolute(text: str, address: str | None) -> str:
    """Markdown with its relative links below `address`, or without them where it is None."""

    def link(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        if address is None:
            return "" if image else words
        return f"{image}[{words}]({address}/{'raw' if image else 'blob'}/main/{target})"

    return LINK.sub(link, text)
