"""A table keeps every entry, on the page and in a terminal."""

from labsupport.tables import table


def test_every_entry_is_in_both_forms_and_is_escaped():
    bundle = table(["what", "MiB"], [["a < b", 1234.5], ["c", None]], "Sizes & more")._repr_mimebundle_()
    page, plain = bundle["text/html"], bundle["text/plain"]
    assert "a &lt; b" in page and "1,234.50" in page and "Sizes &amp; more" in page and page.count("<tr>") == 3
    assert "overflow-x: auto" in page
    assert "a < b" in plain and "1,234.50" in plain and "None" in plain
