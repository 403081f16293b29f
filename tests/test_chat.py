"""Prompts become the ids that the template means, no token twice, and ids become the same text again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupwise.chat import (
    as_completion,
    completion_decoder,
    completion_text,
    content_text,
    decode_completion,
    encode_prompt,
    pad_id,
    render_chat,
    stop_ids,
    truncate_left,
)
from groupwise.data import load_problems, prepare
from groupwise.errors import DataError
from groupwise.types import Sampling

BOS, EOS = "<s>", "</s>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{% if thinking %}<think>{% endif %}"
)
USER = {"role": "user", "content": "What is 2 + 2?"}


def make_tokenizer(rule: str = "$A", template: str | None = TEMPLATE) -> Any:
    """A byte tokenizer whose special-token rule is `rule`, as in "<s> $A </s>"."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([BOS, EOS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [(BOS, 0), (EOS, 1)]
    backend.post_processor = processors.TemplateProcessing(single=rule, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        chat_template=template,
        clean_up_tokenization_spaces=True,
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(f"{BOS} $A {EOS}")


def test_chat_is_the_template_with_the_generation_prompt(tokenizer: Any) -> None:
    ids = encode_prompt(tokenizer, [USER])
    assert tokenizer.decode(ids) == f"{BOS}<user>What is 2 + 2?{EOS}<assistant>"


def test_chat_has_no_second_bos_and_no_final_eos(tokenizer: Any) -> None:
    ids = encode_prompt(tokenizer, [USER])
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] != tokenizer.eos_token_id


def test_chat_ids_are_those_of_the_tokenizers_own_call(tokenizer: Any) -> None:
    own = tokenizer.apply_chat_template([USER], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert encode_prompt(tokenizer, [USER]) == own


def test_final_assistant_message_is_continued(tokenizer: Any) -> None:
    chat = [USER, {"role": "assistant", "content": "The answer"}]
    assert render_chat(tokenizer, chat) == f"{BOS}<user>What is 2 + 2?{EOS}<assistant>The answer"


def test_system_prompt_stands_first_unless_the_chat_has_its_own(tokenizer: Any) -> None:
    assert render_chat(tokenizer, [USER], system_prompt="Be brief.").startswith(f"{BOS}<system>Be brief.{EOS}<user>")
    chat = [{"role": "system", "content": "Rhyme."}, USER]
    assert render_chat(tokenizer, chat, system_prompt="Be brief.") == render_chat(tokenizer, chat)


def test_chat_template_kwargs_reach_the_template(tokenizer: Any) -> None:
    assert render_chat(tokenizer, [USER], chat_template_kwargs={"thinking": True}).endswith("<assistant><think>")


def test_prompt_is_not_changed(tokenizer: Any) -> None:
    chat = [dict(USER)]
    encode_prompt(tokenizer, chat, system_prompt="Be brief.")
    assert chat == [USER]


@pytest.mark.parametrize(
    ("rule", "expected"), [("$A", ""), (f"{BOS} $A", BOS), (f"{BOS} $A {EOS}", BOS), (f"$A {EOS}", "")]
)
def test_plain_text_keeps_the_tokenizers_bos_and_gets_no_eos(rule: str, expected: str) -> None:
    tokenizer = make_tokenizer(rule)
    assert tokenizer.decode(encode_prompt(tokenizer, "once upon")) == f"{expected}once upon"


def test_plain_text_that_brings_its_bos_has_it_once(tokenizer: Any) -> None:
    assert encode_prompt(tokenizer, f"{BOS}once upon") == encode_prompt(tokenizer, "once upon")


def test_eos_written_in_plain_text_stays(tokenizer: Any) -> None:
    assert tokenizer.decode(encode_prompt(tokenizer, f"a{EOS}b{EOS}")) == f"{BOS}a{EOS}b{EOS}"


def test_messages_without_a_template_are_refused() -> None:
    with pytest.raises(DataError, match="no chat template"):
        encode_prompt(make_tokenizer(template=None), [USER])


def test_system_prompt_for_plain_text_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="plain text"):
        encode_prompt(tokenizer, "once upon", system_prompt="Be brief.")


def test_what_a_template_refuses_names_the_roles() -> None:
    tokenizer = make_tokenizer(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="roles user, user: roles must alternate"):
        encode_prompt(tokenizer, [USER, USER])


@given(st.lists(st.integers(), max_size=20), st.integers(1, 30))
def test_truncation_keeps_the_end(ids: list[int], max_length: int) -> None:
    kept = truncate_left(ids, max_length)
    assert len(kept) == min(len(ids), max_length)
    assert ids[len(ids) - len(kept) :] == kept


def test_no_limit_keeps_all() -> None:
    assert truncate_left((1, 2, 3), None) == [1, 2, 3]


@settings(max_examples=30)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_decoding_returns_the_text_character_for_character(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert decode_completion(tokenizer, [*ids, tokenizer.eos_token_id]) == text


def test_decoding_does_not_clean_up_spaces(tokenizer: Any) -> None:
    text = "do n't , stop ."
    assert decode_completion(tokenizer, tokenizer.encode(text, add_special_tokens=False)) == text


def test_special_tokens_can_be_kept(tokenizer: Any) -> None:
    assert decode_completion(tokenizer, [tokenizer.eos_token_id], skip_special_tokens=False) == EOS


@pytest.mark.parametrize("prompt", ["once upon", [USER]])
def test_completion_takes_the_form_of_its_prompt(prompt: Any) -> None:
    completion = as_completion(prompt, "four")
    assert isinstance(completion, str) == isinstance(prompt, str)
    assert completion_text(completion) == "four"


def test_completion_of_a_chat_is_one_assistant_message() -> None:
    assert as_completion([USER], "four") == [{"role": "assistant", "content": "four"}]


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, (1,)), (7, (7, 1)), ([7, 1, 9], (7, 1, 9)), ([7, 9], (7, 9, 1))]
)
def test_stop_ids_are_the_generation_configs_and_the_tokenizers(tokenizer: Any, configured: Any, expected: Any) -> None:
    assert stop_ids(tokenizer, SimpleNamespace(eos_token_id=configured)) == expected


def test_no_generation_config_leaves_the_tokenizers_end_token(tokenizer: Any) -> None:
    assert stop_ids(tokenizer) == (1,)


TAGS = ["<think>", "</think>", "</answer>", "<|im_end|>", "<|pad|>"]


@pytest.fixture(scope="module")
def tagging() -> Any:
    """A tokenizer whose tags are special tokens, of which `<answer>` alone is spelled."""
    tokenizer = make_tokenizer(f"{BOS} $A")
    tokenizer.add_special_tokens({"additional_special_tokens": TAGS, "pad_token": "<|pad|>"})
    return tokenizer


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def test_special_tokens_that_end_nothing_are_text(tagging: Any) -> None:
    text = "<think>a</think>\n<answer>4</answer>"
    assert decode_completion(tagging, ids_of(tagging, f"{BOS}{text}<|pad|>{EOS}")) == text


def test_end_tokens_of_the_run_are_no_text(tagging: Any) -> None:
    end = tagging.convert_tokens_to_ids("<|im_end|>")
    ids = ids_of(tagging, "<think>a<|im_end|>")
    assert completion_decoder(tagging)(ids) == "<think>a<|im_end|>"
    assert completion_decoder(tagging, Sampling(stop_ids=(end,)))(ids) == "<think>a"


def test_padding_that_is_an_ordinary_token_stays_text() -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "a"
    assert decode_completion(tokenizer, ids_of(tokenizer, "banana")) == "banana"


def test_padding_that_a_stop_text_holds_is_text(tagging: Any) -> None:
    ids = ids_of(tagging, "a<|pad|>")
    assert completion_decoder(tagging, Sampling(stop=("a<|pad|>",)))(ids) == "a<|pad|>"
    assert completion_decoder(tagging, Sampling(stop=("b",)))(ids) == "a"


@pytest.mark.parametrize(
    ("stop", "ends"),
    [
        ("<|im_end|>", ["<|im_end|>"]),
        ("<|pad|>", ["<|pad|>"]),
        ("</answer>", []),
        ("</think>", []),
        ("a", []),
        ("</answer><|im_end|>", []),
        ("<|unknown|>", []),
    ],
)
def test_a_stop_text_that_is_a_special_token_is_an_end_token_and_a_closing_tag_is_not(
    tagging: Any, stop: str, ends: list[str]
) -> None:
    assert stop_ids(tagging, None, (stop,)) == (1, *tagging.convert_tokens_to_ids(ends))


def spaced_tokenizers() -> dict[str, Any]:
    """Tokenizers that write spaces in other ways than bytes: by a mark, with bytes for the rest, at word starts."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", EOS, BOS, "<unk>", *"▁abcé!", "▁a", "▁b", "bc", *(f"<0x{b:02X}>" for b in (0xE2, 0x82, 0xAC))]
    mark = decoders.Replace("▁", " ")
    made = {
        "unigram": (models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3), decoders.Metaspace()),
        "llama": (
            models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True),
            decoders.Sequence([mark, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
        ),
        "word pieces": (
            models.WordPiece({**{t: i for i, t in enumerate(pieces)}, "##ab": len(pieces)}, unk_token="<unk>"),
            decoders.WordPiece(),
        ),
        "words": (models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"), None),
    }
    tokenizers = {}
    for name, (model, decoder) in made.items():
        backend = Tokenizer(model)
        if decoder is not None:
            backend.decoder = decoder
        tokenizers[name] = PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token="<pad>", eos_token=EOS, bos_token=BOS, unk_token="<unk>"
        )
    return tokenizers


@pytest.mark.parametrize(("name", "spaced"), spaced_tokenizers().items(), ids=lambda each: str(each)[:11])
@settings(max_examples=60)
@given(data=st.data())
def test_text_without_special_tokens_is_what_transformers_makes_of_it(
    name: str, spaced: Any, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(4, len(spaced) - 1), max_size=12))
    ids += data.draw(st.sampled_from([[], [1], [0], [2]]))
    expected = spaced.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert decode_completion(spaced, ids) == expected, name


def test_what_closes_the_begin_token_is_no_tag() -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|im_end|>"
    assert stop_ids(tokenizer, SimpleNamespace(eos_token_id=9), (EOS,)) == (9, 1)


def test_missing_pad_token_is_aliased() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.pad_token_id is None
    assert pad_id(tokenizer) == tokenizer.eos_token_id
    tokenizer.pad_token = "a"
    assert pad_id(tokenizer) == tokenizer.convert_tokens_to_ids("a")
    assert pad_id(SimpleNamespace(pad_token_id=None, eos_token_id=None)) == 0  # type: ignore[arg-type]


# --- content in parts ---


def parts(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text} for text in texts]


def chat_template(content: str) -> str:
    """A template that writes the content of a message so."""
    return (
        "{% for m in messages %}<{{ m['role'] }}>" + content + "</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )


LOOP = "{% for part in m['content'] %}{% if part['type'] == 'text' %}({{ part['text'] | trim }}){% endif %}{% endfor %}"
EITHER = "{% if m['content'] is string %}{{ m['content'] }}{% else %}" + LOOP + "{% endif %}"
TAKES_TEXT = {
    "printed": "{{ m['content'] }}",
    "trimmed, as Llama 3 does": "{{ m['content'] | trim }}",
    "added up, as Qwen does": "{{ '' + m['content'] }}",
    "as JSON": "{% if m['content'] is string %}{{ m['content'] }}{% else %}{{ m['content'] | tojson }}{% endif %}",
    "split": "{{ m['content'].split('</think>')[-1] }}",
    "strings alone": "{% if m['content'] is string %}{{ m['content'] }}{% endif %}",
}
TAKES_PARTS = {"parts alone": LOOP, "text or parts": EITHER}


@pytest.mark.parametrize("name", TAKES_TEXT)
def test_text_parts_are_joined_where_a_template_takes_text(name: str) -> None:
    tokenizer = make_tokenizer(template=chat_template(TAKES_TEXT[name]))
    chat = [
        {"role": "system", "content": parts("Be ", "brief.")},
        {"role": "user", "content": ["What is ", *parts("2?")]},
    ]
    assert render_chat(tokenizer, chat) == "<system>Be brief.</><user>What is 2?</><assistant>"
    assert chat[0]["content"] == parts("Be ", "brief.")


@pytest.mark.parametrize("name", TAKES_PARTS)
def test_a_template_that_takes_parts_gets_parts(name: str) -> None:
    tokenizer = make_tokenizer(template=chat_template(TAKES_PARTS[name]))
    chat = [{"role": "user", "content": ["What is ", *parts("2?")]}]
    assert render_chat(tokenizer, chat) == "<user>(What is)(2?)</><assistant>"


def test_parts_are_joined_for_the_roles_whose_content_is_printed_as_it_is() -> None:
    content = "{% if m['role'] == 'system' %}{{ m['content'] | trim }}{% else %}" + EITHER + "{% endif %}"
    tokenizer = make_tokenizer(template=chat_template(content))
    chat = [{"role": role, "content": parts("a", "b")} for role in ("system", "user")]
    assert render_chat(tokenizer, chat) == "<system>ab</><user>(a)(b)</><assistant>"


def test_a_final_message_of_parts_is_continued(tokenizer: Any) -> None:
    chat = [USER, {"role": "assistant", "content": parts("The ", "answer")}]
    assert render_chat(tokenizer, chat) == f"{BOS}<user>What is 2 + 2?{EOS}<assistant>The answer"


@pytest.mark.parametrize(
    "part", [{"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}, {"text": None}, 5]
)
@pytest.mark.parametrize("content", ["{{ m['content'] }}", LOOP])
def test_parts_that_are_no_text_are_refused(content: str, part: Any) -> None:
    tokenizer = make_tokenizer(template=chat_template(content))
    chat = [USER, {"role": "user", "content": [*parts("Look: "), part]}]
    with pytest.raises(DataError, match=r"a part .*(image|NoneType|int).*text"):
        render_chat(tokenizer, chat)
    with pytest.raises(DataError, match=r"^Row 2 of the list given as data[:,] .* a part "):
        prepare(load_problems([{"prompt": [USER]}, {"prompt": chat}]), tokenizer)


def test_the_text_of_a_content() -> None:
    assert content_text("a") == "a"
    assert content_text(None) == ""
    assert content_text([]) == ""
    assert content_text([*parts("a", "b"), "c"]) == "abc"
