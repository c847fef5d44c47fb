"""What texts, strangers and labelers may try on the labelling site; none of it succeeds.

What requests themselves may try stands in test_feedback_requests.py.
"""

import dataclasses
import json
import re
import threading

import labelling
import pytest
from labelling import Visitor, count, join, make_site, pair

from rlhf_jax.feedback import people, people_pages, serve
from rlhf_jax.feedback.schema import answers, questions

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>{{ 7 * 7 }}{% raw %}</textarea>"


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path, [pair(i) for i in range(6)])


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    with labelling.crowd(tmp_path_factory.mktemp("crowd")) as found:
        yield found


def harmless(html: str) -> bool:
    """No tag or attribute of SCRIPT is left, only its letters; nor was it run as a template."""
    return (
        "<script>alert" not in html
        and "<img" not in html
        and "onerror=alert(2)>" not in html
        and "{{ 7 * 7 }}" in html
    )


# Texts


@pytest.mark.parametrize("place", ["title", "post", "subreddit"])
def test_a_script_in_a_post_is_shown_as_text(tmp_path, place):
    record = pair(0)
    record["info"][place] = SCRIPT
    ana = join(make_site(tmp_path, [record]), "Ana")
    path = ana.next_task()
    ana.submit(path, step="interpret", interpretation_first="a", interpretation_second="b")
    assert "&lt;script&gt;alert(1)" in ana.page and harmless(ana.page)


def test_a_script_in_a_summary_is_shown_as_text(tmp_path):
    record = pair(0)
    record["summaries"][0]["text"] = SCRIPT
    ana = join(make_site(tmp_path, [record]), "Ana")
    ana.next_task()
    assert "&lt;script&gt;alert(1)" in ana.page and harmless(ana.page)


def test_a_script_in_an_interpretation_is_shown_as_text(site):
    ana = join(site, "Ana")
    ana.submit(ana.next_task(), step="interpret", interpretation_first=SCRIPT, interpretation_second=SCRIPT)
    assert ana.page.count("&lt;script&gt;alert(1)") == 2 and harmless(ana.page)


def test_a_script_in_a_comment_leaves_its_field_only_as_text(site):
    ana = join(site, "Ana")
    path = ana.next_task()
    ana.submit(path, step="interpret", interpretation_first="a", interpretation_second="b")
    ana.submit(path, step="choose", comment=SCRIPT)  # no choice: the page comes back with what was typed
    assert "&lt;/textarea&gt;" in ana.page and harmless(ana.page)


def test_a_script_in_a_question_and_its_reply_is_shown_as_text(site):
    ana, rosa = join(site, "Ana"), join(site, "Rosa", "researcher")
    ana.open("/questions")
    ana.submit("/questions", text=SCRIPT)
    rosa.open("/questions")
    question = re.search(r'action="(/questions/[^"]+)"', rosa.page)[1]
    rosa.submit(question, text=SCRIPT)
    ana.open("/questions")
    assert ana.page.count("&lt;script&gt;alert(1)") == 2 and harmless(ana.page) and harmless(rosa.page)


def test_a_script_in_a_name_is_shown_as_text(site):
    boss = join(site, "Boss", "administrator")
    boss.open("/admin")
    boss.page += '<input name="key" value="0000000000000000">'
    boss.submit("/admin/people", name=SCRIPT[:79], role="labeler")
    assert "&lt;script&gt;alert(1)" in boss.page and harmless(boss.page)
    token = re.search(r"/join/([\w-]+)", boss.page)[1]
    assert harmless(Visitor(site).open(f"/join/{token}").text)


def test_no_page_lets_a_browser_run_what_it_holds(site):
    ana = join(site, "Ana")
    for path in ("/", "/task", "/questions", "/nowhere", "/static/site.css", "/join/x"):
        policy = ana.open(path).headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert not re.search(r"<script(?! src=\"/static/site.js\")|\son\w+=|style=", ana.page)


# Tokens and sessions


def test_forged_and_truncated_tokens_open_nothing(site):
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    for bad in (token[:-1], token + "A", token.swapcase(), people.digest(token), "a", "%00", "' OR 1=1 --"):
        stranger = Visitor(site)
        assert stranger.post(f"/join/{bad}").status_code == 404
        assert not stranger.cookies
    assert Visitor(site).post(f"/join/{token}").status_code == 200


def test_a_link_opens_one_session_and_a_new_one_ends_it(site):
    with site.store.write() as db:
        person, token = people.add(db, "Ana", "labeler")
        newer = people.invite(db, person.id)
    assert Visitor(site).post(f"/join/{token}").status_code == 404
    assert Visitor(site).post(f"/join/{newer}").status_code == 200
    assert Visitor(site).post(f"/join/{newer}").status_code == 404


def test_two_who_use_a_link_at_once_do_not_both_come_in(site):
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(Visitor(site).post(f"/join/{token}").status_code))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200, 404, 404, 404]


def test_looking_at_a_link_does_not_use_it_up(site):
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    preview = Visitor(site)
    assert preview.get(f"/join/{token}").status_code == 200 and not preview.cookies
    assert Visitor(site).post(f"/join/{token}").status_code == 200


def test_the_store_holds_no_token_or_cookie(site, tmp_path):
    with site.store.write() as db:
        _, used = people.add(db, "Ana", "labeler")
        _, unused = people.add(db, "Bo", "labeler")
    ana = Visitor(site)
    ana.post(f"/join/{used}")
    files = b"".join(file.read_bytes() for file in tmp_path.glob("feedback.sqlite*"))
    for secret in (used, unused, ana.cookies[site.address.cookie]):
        assert secret.encode() not in files


@pytest.mark.parametrize("cookie", ["", "x", "' OR 1=1 --", "\\", "%00", "a" * 3000])
def test_a_forged_cookie_is_nobody(crowd, cookie):
    stranger = Visitor(crowd.site)
    response = stranger.get("/", headers={"cookie": f"{crowd.site.address.cookie}={cookie}"})
    assert response.status_code == 403 and "The labeler" not in response.text


def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(site):
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    response = Visitor(site).post(f"/join/{token}", follow_redirects=False)
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie
    assert response.headers["location"] == "/"  # the token leaves the address


def test_the_cookie_is_for_encrypted_connections_where_there_is_one(site):
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    visitor = Visitor(site)
    visitor.base_url = "https://testserver"
    assert "; secure" in visitor.post(f"/join/{token}", follow_redirects=False).headers["set-cookie"].lower()


def test_the_cookie_is_so_behind_a_proxy_that_tells_nothing_of_encryption(site):
    site = dataclasses.replace(site, url="https://label.example.org")
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    response = Visitor(site).post(f"/join/{token}", follow_redirects=False)
    assert "; secure" in response.headers["set-cookie"].lower()


def test_who_is_signed_in_and_follows_a_used_link_comes_to_the_start(site):
    """From a page of another site, as a mail's; to strangers and others it tells nothing."""
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    ana = Visitor(site)
    ana.post(f"/join/{token}")
    mail = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    response = ana.get(f"/join/{token}", headers=mail)
    assert response.status_code == 200 and response.url.path == "/" and "Hello, Ana" in response.text
    assert ana.get("/", headers=mail).status_code == 200
    assert Visitor(site).get(f"/join/{token}").status_code == 404
    assert join(site, "Bo").get(f"/join/{token}").status_code == 404
    assert ana.get("/join/made-up").status_code == 404


def test_somebody_paused_is_out_at_once_and_back_after(site):
    ana = join(site, "Ana")
    path = ana.next_task()
    with site.store.write() as db:
        person = people.everybody(db)[0]
        people.change(db, person.id, paused=True)
        token = people.invite(db, person.id)
    assert ana.get(path).status_code == 403
    assert ana.submit(path, step="interpret", interpretation_first="a").status_code == 403
    assert Visitor(site).post(f"/join/{token}").status_code == 404
    with site.store.write() as db:
        people.change(db, person.id, paused=False)
    assert ana.open(path).status_code == 200


def test_a_session_that_was_left_or_ended_cannot_be_used_again(site):
    ana, bo = join(site, "Ana"), join(site, "Bo")
    old = labelling.session(ana, site)
    ana.post("/leave", data={"csrf": ana.hidden("csrf")})
    assert Visitor(site).get("/", headers={"cookie": old}).status_code == 403
    with site.store.write() as db:
        people.sign_out(db, people.everybody(db)[1].id)
    assert bo.get("/").status_code == 403


# Other people's things


def test_another_labelers_task_can_be_neither_read_nor_answered(site):
    ana, bo = join(site, "Ana"), join(site, "Bo")
    path = ana.next_task()
    assert bo.next_task() != path
    for tried in (path, f"/learned{path.removeprefix('/task')}"):
        response = bo.get(tried)
        assert response.status_code == 404 and "Summary" not in response.text
    assert (
        bo.submit(path, step="interpret", interpretation_first="a", interpretation_second="b").status_code
        == 404
    )
    bo.open("/task")
    assert bo.submit(f"{path}/draft", step="interpret", interpretation_first="stolen").status_code == 404
    bo.open("/task")
    assert bo.submit("/questions", task=path.split("/")[-1], text="What is it?").status_code == 404
    ana.open(path)
    assert "stolen" not in ana.page and count(site, questions) == 0


def test_an_unknown_task_looks_like_another_labelers(site):
    ana, bo = join(site, "Ana"), join(site, "Bo")
    assert bo.get(ana.next_task()).text == bo.get("/task/0123456789abcdef0123").text


def test_the_post_is_not_sent_before_the_summaries_are_read(site):
    ana = join(site, "Ana")
    path = ana.next_task()
    assert "Title" not in ana.page and "Body" not in ana.page
    ana.submit(path, step="choose", choice="1")  # skipping the first step
    assert "Body" not in ana.page and count(site, answers) == 0


def test_nothing_tells_who_wrote_a_summary(site):
    ana = join(site, "Ana")
    path = ana.next_task()
    seen = ana.page
    seen += ana.submit(path, step="interpret", interpretation_first="a", interpretation_second="b").text
    assert "hidden_" not in seen and "ppo" not in seen


@pytest.mark.parametrize("role", ["labeler", "researcher"])
@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/admin"),
        ("GET", "/admin/export"),
        ("POST", "/admin/people"),
        ("GET", "/admin/people/WORKER"),
        ("GET", "/admin/people/WORKER/delete"),
        *(("POST", f"/admin/people/WORKER/{what}") for what in people_pages.ACTS),
    ],
)
def test_administration_is_for_administrators(crowd, role, method, path):
    visitor = getattr(crowd, role)
    with crowd.site.store.read() as db:
        path = path.replace("WORKER", people.everybody(db)[2].worker)
    fields = {"csrf": visitor.hidden("csrf"), "name": "Eve", "role": "administrator", "paused": "yes"}
    fields |= {"excluded": "yes", "answers": "yes"}
    response = visitor.request(method, path, data=fields if method == "POST" else None)
    assert response.status_code == 404


def test_a_labeler_cannot_reply_as_a_researcher(site):
    ana = join(site, "Ana")
    ana.open("/questions")
    key = ana.hidden("key")
    ana.submit("/questions", text="What counts as a tie?")
    assert ana.submit(f"/questions/{key}", text="All does").status_code == 404
    assert "All does" not in ana.open("/questions").text


def test_onboarding_cannot_be_skipped_by_a_labeler(tmp_path):
    site = make_site(tmp_path, [pair(0)])
    visitor = join(site, "Ana", standing="training")
    with site.store.read() as db:
        worker = people.everybody(db)[0].worker
    assert (
        visitor.post(f"/admin/people/{worker}/pass", data={"csrf": visitor.hidden("csrf")}).status_code == 404
    )
    with site.store.read() as db:
        assert people.everybody(db)[0].standing == "training"


# Samples, which name the policies

FILES = ("", "index.html", "app.js", "style.css", "data/index.js", "data/0.js", "nothing.js")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A labeler, a researcher and a stranger at a site with samples."""
    site = make_site(tmp_path_factory.mktemp("sampled"), [pair(0)], samples=2)
    return join(site, "Ana"), join(site, "Rosa", "researcher"), Visitor(site)


@pytest.mark.parametrize("name", FILES)
def test_samples_are_not_for_labelers_and_strangers(sampled, name):
    """Nor can they tell which files there are."""
    labeler, _, stranger = sampled
    for visitor, status in ((labeler, 404), (stranger, 403)):
        response = visitor.get(f"/samples/{name}")
        assert response.status_code == status and "Sample" not in response.text
        assert response.text == visitor.get("/samples/no/such/file").text


def test_a_labeler_is_not_told_that_there_are_samples(sampled):
    assert all("/samples" not in sampled[0].open(path).text for path in ("/", "/task", "/questions"))


def test_a_researcher_who_was_paused_or_signed_out_reads_no_samples(tmp_path):
    site = make_site(tmp_path, [pair(0)], samples=2)
    rosa, dan = join(site, "Rosa", "researcher"), join(site, "Dan", "researcher")
    with site.store.write() as db:
        people.change(db, people.everybody(db)[0].id, paused=True)
        people.sign_out(db, people.everybody(db)[1].id)
    for visitor in (rosa, dan):
        assert visitor.get("/samples/data/0.js").status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        *("/samples/../feedback.sqlite", "/samples/%2e%2e/feedback.sqlite", "/samples/..%2ffeedback.sqlite"),
        *("/samples//etc/passwd", "/samples/%2fetc%2fpasswd", "/samples/data/../../app.py"),
        *("/samples/data/..%5c..%5capp.py", "/samples/data", "/samples/data/", "/samples/data/%00.js"),
        *(
            "/samples/0.js",
            "/samples/INDEX.HTML",
            "/samples/index.html/",
            "/samples/samples.jsonl",
            "/samples",
        ),
    ],
)
def test_no_address_reaches_another_file(sampled, path):
    response = sampled[1].get(path)
    assert response.status_code == 404 and "Sample 0" not in response.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_samples_can_only_be_read(sampled, method):
    assert sampled[1].request(method, "/samples/index.html").status_code == 405


def test_a_browser_runs_of_the_samples_only_the_site_s_own_files(sampled):
    for name in FILES:
        headers = sampled[1].get(f"/samples/{name}").headers
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy and "unsafe" not in policy
    page = sampled[1].get("/samples/").text
    assert not re.search(r"<script(?! src=\"(data/index|app)\.js\")|\son\w+=|style=", page)


def test_a_script_in_a_sample_stays_text(tmp_path):
    site = make_site(tmp_path, [pair(0)], samples=1)
    record = labelling.sample(0)
    record["summaries"]["ppo"]["text"] = "</script>" + SCRIPT
    (tmp_path / "samples.jsonl").write_text(json.dumps(record))
    site = dataclasses.replace(site, samples=serve.viewer_files(tmp_path / "samples.jsonl"))
    script = join(site, "Rosa", "researcher").get("/samples/data/0.js")
    assert script.headers["content-type"].startswith("text/javascript")  # markup means nothing in it
    assert json.loads(script.text.split(" = ", 1)[1].removesuffix(";\n"))[0]["summaries"][2]["text"].endswith(
        SCRIPT
    )
