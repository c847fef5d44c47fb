from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.mini.baselines import baselines
from rlhf_jax.data.mini.errors import errors
from rlhf_jax.data.records import Article, Post

# Of the effects one is slight and one is mild; dora is asked about.
TEXT = (
    "maybe adam hit ben at work. ben scammed cora on friday so she yawned. adam hugged cora so cora wept. "
    "dora warned ben. should i trust dora?"
)
STORY = Post("1", "drama", "ben again", TEXT)


def of(record):
    return {name: texts[0] for name, texts in baselines([record]).items()}


def test_of_a_post_by_hand():
    assert of(STORY) == {
        "first_sentence": "maybe adam hit ben at work.",
        "first_two_sentences": "maybe adam hit ben at work. ben scammed cora on friday so she yawned.",
        "template": "maybe adam hit ben at work and ben conned cora on friday so cora yawned. "
        "should i trust dora?",
        "key_sentences": "adam hugged cora so cora wept. dora warned ben. should i trust dora?",
    }


def test_a_sentence_that_is_grave_and_about_the_asked_person_is_copied_once():
    text = "adam hit ben so ben fled. cora mocked adam so adam cried. should i forgive adam?"
    record = Post("1", "drama", "", text)
    assert of(record)["key_sentences"] == "adam hit ben so ben fled. should i forgive adam?"


def test_an_article_of_one_fact_and_a_text_of_another_language():
    article = Article("1", "mini", "", "adam hit ben. should i sue ben?")
    assert of(article)["template"] == of(article)["key_sentences"] == article.text
    other = of(Post("1", "drama", "", "My boss fired me. What now?"))
    assert (
        other["template"] == other["key_sentences"] == "" and other["first_sentence"] == "My boss fired me."
    )


def test_the_template_tells_nothing_false():
    some = mini.posts(0, "valid", 50)
    texts = baselines(some)["template"]
    assert len(set(texts)) == 50
    assert [errors(*each) for each in zip(some, texts, strict=True)] == [frozenset()] * 50
