"""Whose tokens are whose in a conversation, under templates of many kinds."""

import copy
import json
import pickle

import pytest
import torch
from tokenizers import processors

from emoreg.corpus import LabelledText, read_corpus, read_from, read_texts
from emoreg.corpus.chat import Reply, reply, spans
from emoreg.extraction import extract
from emoreg.extraction.tokens import tokenise
from emoreg.reading.scope import positions

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama-3": (
        "{% for m in messages %}{% set turn = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        " + m['content'] | trim + '<|eot_id|>' %}{{ bos_token + turn if loop.first else turn }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    # The system message goes into the last user's, and a space of the template meets the reply's first word.
    "mistral": (
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        "{{ bos_token }}{% for m in turns %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + (system if loop.revindex0 < 2 else '') + m['content'] + '[/INST]' }}"
        "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "gemma, system first": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set prefix = messages[0]['content'] + '\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set prefix = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n'"
        " + (prefix if loop.first else '') + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # Earlier replies lose their reasoning; the last one's is set anew, and stands empty where there is none.
    "reasoning": (
        "{% for m in messages %}{% set text = m['content'] %}{% if m['role'] == 'assistant' %}"
        "{% set thought = '' %}{% if '</think>' in text %}"
        "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip() %}"
        "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if loop.last %}{% set text = '<think>\n' + thought + '\n</think>\n\n' + text %}{% endif %}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}  # fmt: skip
# Contents that the template's own words, other messages and markers could be taken for.
TALK = [
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": "assistant"},
    {"role": "user", "content": " No. "},
    {"role": "assistant", "content": "No. So: é😀 user\n"},
]
SYSTEM = [{"role": "system", "content": "Be user."}, *TALK]
MARKERS = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]",
           "<start_of_turn>", "<end_of_turn>"]  # fmt: skip


@pytest.fixture
def chatting(tiny_tokenizer):
    def of(template):
        if template in TEMPLATES:
            tiny_tokenizer.chat_template = TEMPLATES[template]
            tiny_tokenizer.add_tokens(MARKERS, special_tokens=True)
        return tiny_tokenizer

    return of


@pytest.fixture(params=["own", *TEMPLATES])
def template(request):
    return request.param


def tokens(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


class TestSpans:
    def test_each_is_its_message_and_nothing_else(self, chatting, template):
        tokenizer = chatting(template)
        messages = TALK if template == "gemma" else SYSTEM
        ids, found = tokens(tokenizer, messages), spans(tokenizer, messages)
        assert [span.role for span in found] == [message["role"] for message in messages]
        for span, message in zip(found, messages, strict=True):
            assert tokenizer.decode(ids[span.start : span.end]).strip() == message["content"].strip()
        inside = [n for span in found for n in range(span.start, span.end)]
        assert len(inside) == len(set(inside))

    def test_the_colon_is_where_scope_reply_start_looks(self, chatting, template):
        """A trainer that gets a prompt and a completion labels what comes behind the generation prompt."""
        tokenizer = chatting(template)
        prompt, ids = tokens(tokenizer, TALK[:3], add_generation_prompt=True), tokens(tokenizer, TALK)
        assert ids[: len(prompt)] == prompt
        labels = torch.tensor([[-100] * len(prompt) + ids[len(prompt) :]])
        scope = positions("reply_start", {"input_ids": torch.tensor([ids]), "labels": labels})[0].nonzero().flatten()
        # The empty thought is the template's, and the trainer's labels start at it; Mistral's at the space.
        later = {"reasoning": len("<think>\n\n</think>\n\n"), "mistral": len(" ")}.get(template, 0)
        assert scope.tolist() == [spans(tokenizer, TALK)[-1].reply_start - later]

    def test_the_same_for_every_reply_that_a_template_marks(self, tiny_tokenizer):
        marked = tiny_tokenizer.apply_chat_template(SYSTEM, return_assistant_tokens_mask=True, return_dict=True)
        ids, mask = torch.tensor([marked["input_ids"]]), torch.tensor([marked["assistant_masks"]])
        inputs = {"input_ids": ids, "labels": torch.where(mask.bool(), ids, -100)}
        colons = [span.reply_start for span in spans(tiny_tokenizer, SYSTEM) if span.role == "assistant"]
        assert positions("reply_start", inputs)[0].nonzero().flatten().tolist() == colons
        assert tiny_tokenizer.decode(ids[0, colons]) == ">>"

    def test_a_token_across_the_border_is_the_contents(self, chatting):
        tokenizer = chatting("mistral")
        tokenizer.add_tokens([" Yes"])
        span = spans(tokenizer, [TALK[0], {"role": "assistant", "content": "Yes, so"}])[-1]
        ids = tokens(tokenizer, [TALK[0], {"role": "assistant", "content": "Yes, so"}])
        assert tokenizer.decode(ids[span.start]) == " Yes"
        assert tokenizer.decode(ids[span.reply_start]) == "[/INST]"

    def test_reasoning_that_the_template_drops_or_sets_anew(self, chatting):
        tokenizer = chatting("reasoning")
        messages = [TALK[0], {"role": "assistant", "content": "<think>Hm.</think>\n\nYes."}, TALK[2],
                    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nNo."}]  # fmt: skip
        ids, found = tokens(tokenizer, messages), spans(tokenizer, messages)
        assert [tokenizer.decode(ids[span.start : span.end]) for span in found] == [
            "user",
            "Yes.",
            " No. ".strip(),
            "No.",
        ]
        assert tokenizer.decode(ids).count("Hm.") == 1

    def test_options_reach_the_template_and_messages_without_content_have_no_span(self, tiny_tokenizer):
        tiny_tokenizer.chat_template = "{% for m in messages %}{{ sign + (m['content'] or '') }}{% endfor %}"
        messages = [TALK[0], {"role": "assistant", "content": None}, TALK[1]]
        assert spans(tiny_tokenizer, messages, sign="::") == [("user", 2, 6), ("assistant", 10, 19)]

    @pytest.mark.parametrize(("written", "message"), [
        ("{{ messages[0]['content'] }}", "message 1, of 'assistant', is not exactly once .* left out"),
        ("{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}", "message 0, of 'user'"),
        ("{% for m in messages %}{{ m['content'][:3] }}{% endfor %}", "message 0, of 'user'"),
        ("{{ raise_exception('Roles must alternate') }}", "chat template refuses these messages: Roles must alternate"),
        (None, "chat_template is not set"),
    ])  # fmt: skip
    def test_what_cannot_be_found_is_named(self, tiny_tokenizer, written, message):
        tiny_tokenizer.chat_template = written
        with pytest.raises(ValueError, match=message):
            spans(tiny_tokenizer, TALK[:2])

    @pytest.mark.parametrize(("messages", "message"), [
        ("Hello", "expected a list of messages, got str"),
        (["Hello"], "expected messages with a role and a content that are texts, got Hello"),
        ([{"role": "user", "content": [{"type": "image"}]}], "expected messages with a role and a content"),
        ([{"content": "Hello"}], "expected messages with a role and a content"),
    ])  # fmt: skip
    def test_what_is_no_conversation(self, tiny_tokenizer, messages, message):
        with pytest.raises(ValueError, match=message):
            spans(tiny_tokenizer, messages)

    def test_gemma_refuses_a_system_message(self, chatting):
        with pytest.raises(ValueError, match="refuses these messages: System role not supported"):
            spans(chatting("gemma"), SYSTEM)

    def test_nothing_before_the_first_content(self, tiny_tokenizer):
        tiny_tokenizer.chat_template = "{{ messages[0]['content'] }}"
        with pytest.raises(ValueError, match="writes nothing before the first content, of 'user'"):
            _ = spans(tiny_tokenizer, TALK[:1])[0].reply_start


class TestReply:
    @pytest.mark.parametrize("adds_bos", [False, True])
    def test_extraction_sees_the_conversation_as_it_is_and_reads_the_reply_alone(
        self, chatting, template, adds_bos, tiny_llama
    ):
        tokenizer = chatting(template)
        if adds_bos:  # it has one in the template, or is to have none
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
            )
        ids, span = tokens(tokenizer, TALK), spans(tokenizer, TALK)[-1]
        model = tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=512)
        plain, whole, colon = tokenise(
            model, tokenizer, ["xy", reply(tokenizer, TALK), reply(tokenizer, TALK, "reply_start")]
        )
        assert (plain.first, plain.end) == (1, adds_bos + 2)
        assert (whole.ids.tolist(), whole.first, whole.end) == (ids[: span.end], span.start, span.end)
        assert (colon.ids.tolist(), colon.first) == (ids[: span.start], span.reply_start)

    def test_the_colon_without_a_reply_is_the_same(self, chatting, template):
        tokenizer = chatting(template)
        asked = reply(tokenizer, TALK[:3], "reply_start")
        answered = reply(tokenizer, TALK, "reply_start")
        if template in ("reasoning", "mistral"):  # what the template puts before a reply that is there
            assert answered.startswith(asked)
        else:
            assert (asked, asked.read_from) == (answered, answered.read_from)

    def test_it_is_a_text_also_when_copied(self, tiny_tokenizer):
        text = reply(tiny_tokenizer, TALK)
        assert text == "<user>user<assistant>assistant<eos><user> No. <assistant>No. So: é😀 user"
        for other in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
            assert (type(other), other, other.read_from) == (Reply, text, text.read_from)

    @pytest.mark.parametrize(("messages", "read", "message"), [
        (TALK[:1], "reply", "ends in an assistant's message with a content, got .*user"),
        ([], "reply", "ends in an assistant's message"),
        ([], "reply_start", "ends in an assistant's message"),
        ([TALK[0], {"role": "assistant", "content": " "}], "reply", "ends in an assistant's message with a content"),
        (TALK, "colon", "read must be 'reply' or 'reply_start', got 'colon'"),
    ])  # fmt: skip
    def test_nothing_to_read(self, tiny_tokenizer, messages, read, message):
        with pytest.raises(ValueError, match=message):
            reply(tiny_tokenizer, messages, read)


class TestExtraction:
    def records(self, n=3):
        question = {"role": "user", "content": "What now?"}
        return [
            {"messages": [question, {"role": "assistant", "content": f"{word} {i} times."}], "emotion": emotion}
            for i in range(n)
            for emotion, word in (("calm", "so"), ("desperate", "oh"))
        ]

    def test_conversations_from_files(self, tiny_llama, tiny_tokenizer, tmp_path):
        path = tmp_path / "talk.jsonl"
        path.write_text("\n".join(map(json.dumps, self.records())))
        corpus, neutral = read_corpus(path, tokenizer=tiny_tokenizer), read_texts(path, tokenizer=tiny_tokenizer)
        assert corpus[0].text[read_from(corpus[0].text) :] == "so 0 times."
        assert [item.text for item in corpus] == neutral
        vectors = extract(
            tiny_llama(), tiny_tokenizer, corpus, neutral, from_token=1, denoise_share=0.0, progress=False
        )
        read = [text[start:] for text, start in ((text, text.read_from) for text in neutral)]
        assert vectors.reference_mask.sum(1).tolist() == [len(text) for text in read]

    def test_the_question_decides_nothing_of_what_is_read(self, tiny_llama, tiny_tokenizer):
        """Its tokens are seen, and not read: under a model whose blocks do nothing they leave no trace."""
        model = tiny_llama()
        for block in model.model.layers:
            torch.nn.init.zeros_(block.self_attn.o_proj.weight)
            torch.nn.init.zeros_(block.mlp.down_proj.weight)

        def directions(question):
            made = [[{"role": "user", "content": question}, record["messages"][1]] for record in self.records()]
            texts = [reply(tiny_tokenizer, messages) for messages in made]
            corpus = [LabelledText(text, r["emotion"]) for text, r in zip(texts, self.records(), strict=True)]
            return extract(model, tiny_tokenizer, corpus, texts, from_token=1, denoise_share=0.0, progress=False)

        a, b = directions("What now?"), directions("Who is there, at this hour?")
        torch.testing.assert_close(a.directions, b.directions)
        torch.testing.assert_close(a.std, b.std)

    def test_no_reply_begins_early_enough_to_be_a_reference(self, tiny_llama, tiny_tokenizer):
        texts = [reply(tiny_tokenizer, record["messages"]) for record in self.records()]
        corpus = [LabelledText(text, r["emotion"]) for text, r in zip(texts, self.records(), strict=True)]
        options = {"from_token": 1, "reference_tokens": 20, "progress": False}
        with pytest.raises(ValueError, match="the earliest reply begins at token 26; raise reference_tokens"):
            extract(tiny_llama(), tiny_tokenizer, corpus, texts, **options)

    def test_mistakes_in_a_file(self, tiny_tokenizer, tmp_path):
        path = tmp_path / "talk.jsonl"
        path.write_text("\n".join(map(json.dumps, self.records())))
        with pytest.raises(ValueError, match="record 1 is a conversation; give the model's tokenizer too"):
            read_corpus(path)
        path.write_text(json.dumps({"messages": TALK[:1], "emotion": "calm"}))
        with pytest.raises(ValueError, match="record 1: expected a conversation that ends in an assistant's message"):
            read_corpus(path, tokenizer=tiny_tokenizer)
