"""The administrator's pages: whom they let in and out, what they show and give away."""

import io
import re
import zipfile

import pytest
from labelling import URL, Visitor, join, make_site, pair

from rlhf_jax.data.record_json import read_comparisons
from rlhf_jax.feedback import people, viewer
from rlhf_jax.feedback.study import Labeler, Onboarding, Study


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path, [pair(i) for i in range(8)], Study(calibration=1.0, batch="round7"))


@pytest.fixture
def boss(site):
    return join(site, "Boss", "administrator")


def post(visitor: Visitor, path: str, **fields):
    response = visitor.post(path, data={"csrf": visitor.hidden("csrf")} | fields)
    assert response.status_code == 200, response.text
    return response


def worker(site, name: str) -> str:
    with site.store.read() as db:
        return next(person.worker for person in people.everybody(db) if person.name == name)


def test_a_link_is_shown_once_and_lets_its_person_in(site, boss):
    page = post(boss, "/admin/people", name=" Ana  María ", role="researcher").text
    link = re.search(rf"{URL}/join/[\w-]+", page)[0]
    assert "Ana María" in page and "/join/" not in boss.get("/admin").text
    assert "a researcher" in Visitor(site).get(link).text


def test_another_administrator_does_not_see_the_link(site, boss):
    other = join(site, "Other", "administrator")
    boss.post(
        "/admin/people",
        data={"csrf": boss.hidden("csrf"), "name": "Ana", "role": "labeler"},
        follow_redirects=False,
    )
    assert "/join/" not in other.get("/admin").text and "/join/" in boss.get("/admin").text


def test_two_people_do_not_share_a_name(site, boss):
    post(boss, "/admin/people", name="Ana", role="labeler")
    again = boss.post("/admin/people", data={"csrf": boss.hidden("csrf"), "name": "Ana", "role": "labeler"})
    assert again.status_code == 400 and "already" in again.text


def test_somebody_is_paused_and_resumed(site, boss):
    ana = join(site, "Ana")
    assert "paused</b>" in post(boss, f"/admin/people/{worker(site, 'Ana')}/pause", paused="yes").text
    assert ana.get("/").status_code == 403
    post(boss, f"/admin/people/{worker(site, 'Ana')}/pause", paused="no")
    assert ana.get("/").status_code == 200


def test_an_administrator_cannot_lock_everybody_out(site, boss):
    path = f"/admin/people/{worker(site, 'Boss')}/pause"
    assert boss.post(path, data={"csrf": boss.hidden("csrf"), "paused": "yes"}).status_code == 400


def test_somebody_is_signed_out_and_comes_back_by_a_new_link(site, boss):
    ana = join(site, "Ana")
    post(boss, f"/admin/people/{worker(site, 'Ana')}/leave")
    assert ana.get("/").status_code == 403
    page = post(boss, f"/admin/people/{worker(site, 'Ana')}/link").text
    assert ana.post(re.search(r"/join/[\w-]+", page)[0]).status_code == 200


def test_who_failed_may_be_let_pass(tmp_path):
    site = make_site(tmp_path, [pair(0)], Study(onboarding=Onboarding(tmp_path / "x")))
    boss, ana = join(site, "Boss", "administrator"), join(site, "Ana", standing="failed")
    assert ana.open("/task").url.path == "/"
    assert "failed" in boss.get("/admin").text
    post(boss, f"/admin/people/{worker(site, 'Ana')}/pass")
    assert ana.open("/task").url.path.startswith("/task/")


def test_progress_and_answers_are_counted(site, boss):
    ana = join(site, "Ana")
    for _ in range(3):
        ana.compare(2)
    page = boss.get("/admin").text
    row = re.search(r">Ana<.*?</tr>", page, re.S)[0]
    assert '<td class="number">3' in row
    assert re.search(
        r">comparison</th><td>everybody</td><td class=\"number\">8</td><td class=\"number\">3</td>", page
    )


def test_agreement_is_that_of_the_record_and_not_of_the_screen(site, boss):
    """Two who prefer the same summaries, each shown in an order of their own, agree wholly."""
    assert "Nobody has compared anything" in boss.get("/admin/agreement").text
    for name in ("Ana", "Bo"):
        visitor = join(site, name)
        for _ in range(8):
            visitor.next_task()
            north_first = visitor.page.index("north") < visitor.page.index("south")
            visitor.compare(2 if north_first else 8)
    page = boss.get("/admin/agreement").text
    row = re.search(r"labeler and labeler.*?</tr>", page, re.S)[0]
    assert re.findall(r'number">(\d+)', row) == ["8", "100", "100"]  # pairs, agreement, with the modal answer
    assert "16 answers about 8 pairs" in page and ">Ana<" in page


def test_the_export_is_downloaded_as_one_file(site, boss, tmp_path):
    join(site, "Ana").compare(1)
    response = boss.get("/admin/export")
    assert response.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(response.content))
    names = ["answers.jsonl", "comparisons.jsonl", "instructions.jsonl"]
    assert sorted(archive.namelist()) == [f"export/{name}" for name in names]
    archive.extractall(tmp_path / "there")
    (comparison,) = read_comparisons(tmp_path / "there" / "export" / "comparisons.jsonl")
    assert comparison.batch == "round7" and comparison.worker == worker(site, "Ana")


def test_the_export_before_any_answer_holds_files_without_a_line(boss):
    archive = zipfile.ZipFile(io.BytesIO(boss.get("/admin/export").content))
    assert {name: archive.read(name) for name in archive.namelist()} == {
        "export/answers.jsonl": b"",
        "export/instructions.jsonl": b"",
    }


def test_settings_of_a_labeler_stand_beside_the_name_and_those_of_nobody_are_told(tmp_path):
    labelers = {"Ana": Labeler(5, ("comparison",), ("round2",)), "Anna": Labeler(9)}
    site = make_site(tmp_path, [pair(0)], Study(labelers=labelers))
    boss = join(site, "Boss", "administrator")
    join(site, "Ana")
    page = boss.get("/admin").text
    row = re.search(r">Ana<.*?</tr>", page, re.S)[0]
    assert "comparison, round2" in row and " / 5" in row
    assert "settings for Anna, and no labeler is called so" in page


@pytest.mark.parametrize("role", ["researcher", "administrator"])
def test_the_staff_reads_samples(tmp_path, role):
    visitor = join(make_site(tmp_path, [pair(0)], samples=3), "Rosa", role)
    assert 'href="/samples/"' in visitor.open("/").text
    page = visitor.get("/samples/")
    assert page.headers["content-type"].startswith("text/html") and 'src="app.js"' in page.text
    for name, kind in (("app.js", "javascript"), ("style.css", "css"), ("data/index.js", "javascript")):
        response = visitor.get(f"/samples/{name}")
        assert response.status_code == 200 and f"text/{kind}" in response.headers["content-type"]
    assert "Sample 2 of ppo." in visitor.get("/samples/data/0.js").text


def test_the_viewer_in_the_site_is_the_one_on_the_disk(tmp_path):
    visitor = join(make_site(tmp_path, [pair(0)], samples=3), "Rosa", "researcher")
    arguments = [f"--samples={tmp_path / 'samples.jsonl'}", f"--out={tmp_path / 'out'}"]
    assert viewer.main(["rlhf-jax view", *arguments]) == 0
    for file in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        path = file.relative_to(tmp_path / "out").as_posix()
        assert visitor.get(f"/samples/{path}").content == file.read_bytes()


def test_a_site_without_samples_has_no_page_of_them(boss):
    assert "/samples/" not in boss.get("/").text and boss.get("/samples/").status_code == 404
