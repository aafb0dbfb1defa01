"""A page as a browser reads it: its tags, ids, rows and visible text."""

import html.parser

VOID = {"meta", "br"}


class Page(html.parser.HTMLParser):
    """Parses a page, and notes unclosed tags, resources from outside, duplicate ids and the visible text."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text()
        self.open, self.misnested, self.outside, self.ids, self.rows, self.scripts = [], [], [], [], [], 0
        self._text = []
        self.feed(self.source)
        self.close()
        self.text = " ".join("".join(self._text).split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.scripts += tag == "script"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                self.outside.append(value)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("style", "script"):
            assert "@import" not in data and "url(" not in data
            return
        self._text.append(data)
        if self.rows and self.rows[-1] and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
