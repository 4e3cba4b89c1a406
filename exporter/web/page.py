"""The files of the status page, by path."""

from typing import Final

from shared.runtime.http.page_files import read_page

PAGE: Final = read_page("exporter.web.pages")
