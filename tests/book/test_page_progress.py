"""What a reader read and did is kept in the browser, shown at the table of labs, and sent nowhere."""

from conftest import needs_book, needs_chromium

pytestmark = [needs_chromium, needs_book]
KEPT = "JSON.parse(localStorage.getItem('deepspeed-course-progress') ?? '{}')"

# The theme keeps its own things without looking whether it may.
NO_ROOM = """const keep = Storage.prototype.setItem;
Storage.prototype.setItem = function (key, value) {
  if (key.startsWith("deepspeed-course")) throw new DOMException("no room", "QuotaExceededError");
  keep.call(this, key, value);
};"""


def test_a_lab_that_was_read_and_an_exercise_that_was_ticked_stand_in_the_table(tab, site):
    tab.goto(f"{site}/notebooks/01_config.html")
    assert tab.evaluate(KEPT) == {}, "opened is not read"
    box = tab.get_by_role("checkbox", name="01-batch")
    box.check()
    tab.locator(".prev-next-footer").scroll_into_view_if_needed()
    tab.wait_for_function(f"{KEPT}.pages?.['01_config']")
    tab.reload()
    assert box.is_checked()
    tab.goto(f"{site}/book/intro.html")
    marks = tab.locator(".labs-table .lab-progress").all_inner_texts()
    assert marks[0] == "✓ read, 1 of 4 exercises" and not any(marks[1:])
    assert "in this browser alone; nothing is sent" in tab.locator(".progress-note").inner_text()
    tab.get_by_role("button", name="Forget it").click()
    assert tab.evaluate(KEPT) == {} and not any(tab.locator(".lab-progress").all_inner_texts())


def test_where_nothing_can_be_kept_the_pages_work_and_offer_nothing(tab, site):
    tab.add_init_script(NO_ROOM)
    tab.goto(f"{site}/book/intro.html")
    assert tab.locator(".labs-table a").count() > 9 and tab.locator(".progress-note").count() == 0
