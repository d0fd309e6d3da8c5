"""Tokenizers of many types, trained on a few sentences, which need no download."""

from types import SimpleNamespace

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from unpact_lens.models.convert import prepends_bos

TEXTS = (
    "the capital of Japan is Tokyo", "who wrote Hamlet?", "gold has the symbol Au", "Café Zürich, naïve façade",
    "in 1984 and 2026 there were 35 boats", "What is the answer?\nThe answer is that", "İstanbul ﬁne 北京 🙂",
)  # fmt: skip
WORDS = tuple(word for text in TEXTS for word in text.split())
SPECIAL = ["<unk>", "<s>", "</s>"]


def _trained(model, trainer, *, normalizer=None, pre_tokenizer=None, decoder=None, bos=True, texts=TEXTS):
    made = Tokenizer(model)
    if normalizer is not None:
        made.normalizer = normalizer
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        made.decoder = decoder
    made.train_from_iterator([*texts] * 20, trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    return made


def _fast(made):
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _bpe(**options):
    quiet = {"vocab_size": 400, "special_tokens": SPECIAL, "show_progress": False}
    return trainers.BpeTrainer(**{**quiet, **options})


def byte_level(*, normalizer=None, pre=None, regex=True, prefix=False, trim=False, bos=False):
    own = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    made = _trained(
        models.BPE(),
        _bpe(initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())),
        normalizer=normalizer,
        pre_tokenizer=own if pre is None else pre_tokenizers.Sequence([pre, own]),
        decoder=decoders.ByteLevel(),
        bos=bos,
    )
    if trim:
        steps = [processors.ByteLevel(trim_offsets=True)]
        made.post_processor = processors.Sequence(steps) if not bos else made.post_processor
    return _fast(made)


def metaspace(scheme, *, split=True, texts=WORDS):
    return _fast(
        _trained(
            models.BPE(unk_token="<unk>"),
            _bpe(),
            pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split),
            decoder=decoders.Metaspace(prepend_scheme=scheme),
            texts=texts,
        )
    )


def mistral():
    """Llama and Mistral as transformers converts them: a normaliser puts "▁" before every text."""
    pieces = [f"<0x{b:02X}>" for b in range(256)]
    return _fast(
        _trained(
            models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True),
            _bpe(vocab_size=700, special_tokens=[*SPECIAL, *pieces], max_token_length=12),
            normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
            decoder=decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            ),
            texts=WORDS,
        )
    )


def unigram(normalizer=None, scheme="always"):
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    return _fast(
        _trained(
            models.Unigram(),
            trainer,
            normalizer=normalizer,
            pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme),
            decoder=decoders.Metaspace(prepend_scheme=scheme),
        )
    )


def word_piece():
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    return _fast(
        _trained(
            models.WordPiece(unk_token="<unk>"),
            trainer,
            normalizer=normalizers.BertNormalizer(lowercase=True, strip_accents=True),
            pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
            decoder=decoders.WordPiece(),
        )
    )


def word_level(pre=None):
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    return _fast(
        _trained(models.WordLevel(unk_token="<unk>"), trainer, pre_tokenizer=pre or pre_tokenizers.Whitespace())
    )


def characters():
    return _fast(
        _trained(models.BPE(unk_token="<unk>"), _bpe(vocab_size=90), pre_tokenizer=pre_tokenizers.Split("", "isolated"))
    )


class NoOffsets:
    """A slow tokenizer: the ids of a fast one, and no offsets."""

    is_fast = False
    chat_template = None

    def __init__(self, inner):
        self.inner = inner
        self.bos_token, self.bos_token_id, self.eos_token_id = inner.bos_token, inner.bos_token_id, inner.eos_token_id
        self.added_tokens_decoder = inner.added_tokens_decoder

    def __len__(self):
        return len(self.inner)

    def __call__(self, text, **options):
        options.pop("return_offsets_mapping", None)
        return {"input_ids": self.inner(text, **options)["input_ids"]}

    def decode(self, ids, **options):
        return self.inner.decode(ids, **options)


GPT4_DIGITS = Regex(r"\p{N}{1,3}| ?\p{L}+|\s+(?!\S)|\s+| ?[^\s\p{L}\p{N}]+")

MAKERS = {
    "byte-level BPE (GPT-2)": byte_level,
    "byte-level BPE with BOS (embedded model)": lambda: byte_level(bos=True),
    "byte-level BPE, trimmed offsets (RoBERTa)": lambda: byte_level(trim=True),
    "byte-level BPE, prefix space": lambda: byte_level(prefix=True),
    "byte-level BPE, groups of digits (Llama-3)": lambda: byte_level(
        pre=pre_tokenizers.Split(GPT4_DIGITS, "isolated"), regex=False, bos=True
    ),
    "byte-level BPE, single digits (SmolLM2)": lambda: byte_level(pre=pre_tokenizers.Digits(individual_digits=True)),
    "byte-level BPE, NFC (Qwen2)": lambda: byte_level(normalizer=normalizers.NFC()),
    "Metaspace BPE, always": lambda: metaspace("always"),
    "Metaspace BPE, first": lambda: metaspace("first"),
    "Metaspace BPE, never (Gemma)": lambda: metaspace("never", split=False),
    "BPE across words": lambda: metaspace("never", split=False, texts=TEXTS),
    "prepending normaliser, byte fallback (Mistral, Phi-3)": mistral,
    "Unigram (T5, XLNet)": unigram,
    "Unigram, NFKC, lower case": lambda: unigram(
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]), "first"
    ),
    "Unigram, stripped": lambda: unigram(normalizers.Strip()),
    "WordPiece (BERT)": word_piece,
    "WordLevel": word_level,
    "WordLevel, split at spaces": lambda: word_level(pre_tokenizers.WhitespaceSplit()),
    "characters": characters,
    "slow bytes (ByT5)": ByT5Tokenizer,
    "slow, decodes to the text": lambda: NoOffsets(byte_level(bos=True)),
    "slow, decodes to another text": lambda: NoOffsets(word_piece()),
    "slow, prepends": lambda: NoOffsets(mistral()),
}


def stand_in(tokenizer, d_vocab=None):
    """Stand in for a model, with all that tokenising needs."""
    prepends = prepends_bos(tokenizer) if getattr(tokenizer, "bos_token_id", None) is not None else False
    return SimpleNamespace(
        tokenizer=tokenizer,
        cfg=SimpleNamespace(default_prepend_bos=prepends, d_vocab=d_vocab or len(tokenizer), n_ctx=1000),
    )
