"""Decide whether a clause negates what it mentions, by the negation words of 23 languages.

The language of an answer is unknown, so the words of all languages are looked for. Words that are common in another
language with another meaning are left out (Italian "mai", Spanish "sin"). No grammar is parsed: irony, double negation
in new words and negation across sentences are missed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from unpact_lens.evaluation.text_folding import UNSPACED, fold

REACH = 6
"""Largest number of words between a negation and what it negates, where no verb of belief is negated."""


@dataclass(frozen=True)
class NegationWords:
    """Hold the negation words of one language as regular expressions; alternatives are separated by `|`.

    Attributes:
        before: Words before the mention that negate it, in the same clause.
        after: What directly follows a negated mention.
        later: What negates a mention anywhere after it in the clause, where the verb comes last.
        affirming: Phrases that hold a negation word and affirm.
        contrast: Words after a negation that end it: "not Bergen *but* Oslo".
        belief: Verbs and adjectives whose negation reaches a whole subordinate clause.
        subordinate: Words that begin a subordinate clause.
    """

    before: str = ""
    after: str = ""
    later: str = ""
    affirming: str = ""
    contrast: str = ""
    belief: str = ""
    subordinate: str = ""


LANGUAGES: dict[str, NegationWords] = {
    "en": NegationWords(
        before=r"not|no(?! ?\d)|never|neither|nor|cannot|\w+n't|hardly|unlikely|rather than|instead of|other than|"
        r"except|unlike|(?:any|every)thing but|far from",
        after=r"(?:is|was|are|were) (?:not|never|neither|wrong|incorrect|false|untrue)|(?:is|was|are|were)n't|"
        r"can't be|cannot be",
        affirming=r"not only|not just|not merely|none other than|no other than|nothing (?:but|other than)|"
        r"no (?:doubt|question)|without (?:a )?doubt|not (?:doubt|deny)|(?:do|does|did)n't (?:doubt|deny)",
        contrast=r"but|only|just|merely|until|before",
        belief="think|believe|suppose|agree|say|true|correct|right|the case",
        subordinate="that|which|who|whose|where",
    ),
    "de": NegationWords(
        before=r"nicht|kein\w*|niemals|keinesfalls|keineswegs|weder|noch nie|nie|statt|anstatt|außer",
        after=r"(?:ist|war|sind|waren) (?:es )?(?:nicht|kein\w*|falsch)",
        affirming=r"nicht nur|nicht bloß|kein\w* zweifel|nichts anderes als|kein\w* ander\w* als|niemand anders als",
        contrast="sondern|nur|erst|bis",
        belief=r"glaub\w*|denke\w*|meine|finde|stimmt|wahr|richtig",
        subordinate="dass|ob|welche[rs]?|die|der|das|den|dem|wo",
    ),
    "fr": NegationWords(
        before=r"pas|jamais|ni|aucun\w*|plutôt que|au lieu d[e'](?:[\w]*)|non|nullement|sauf",
        after=r"n'(?:est|était|etait) (?:pas|jamais|plus)|ne sont pas|est faux",
        affirming=r"pas (?:seulement|que)|pas de doute|aucun doute|sans doute|non seulement",
        contrast="mais|seulement|avant",
        belief="crois|croit|pense|vrai|exact",
        subordinate=r"que|qu'\w+|qui|dont|où",
    ),
    "es": NegationWords(
        before=r"no(?! ?\d)|nunca|jamás|tampoco|ni|en vez de|en lugar de|excepto",
        after=r"no (?:es|era|fue)|tampoco es",
        affirming=r"no (?:solo|sólo|solamente)|no hay duda|sin duda|ninguna duda|no cabe duda",
        contrast="sino|solo|hasta",
        belief="creo|pienso|cree|cierto|verdad",
        subordinate="que|quien|cuyo|donde",
    ),
    "pt": NegationWords(
        before=r"não|nem|nunca|jamais|em vez de",
        after=r"não (?:é|era|foi)",
        affirming=r"não só|não apenas|não há dúvida\w*|sem dúvida",
        contrast="mas|senão|até",
        belief="acho|creio|penso|acredito|verdade",
        subordinate="que|quem|onde",
    ),
    "it": NegationWords(
        before=r"non|né|neanche|nemmeno|invece di",
        after=r"non (?:è|era|fu)",
        affirming=r"non solo|non soltanto|non c'è dubbio|senza dubbio|nessun dubbio",
        contrast="ma|bensì|solo|fino",
        belief="credo|penso|vero",
        subordinate="che|cui|dove",
    ),
    "nl": NegationWords(
        before=r"niet|geen|nooit|noch",
        after=r"is niet",
        affirming=r"niet alleen|geen twijfel",
        contrast="maar|alleen",
        belief="denk|geloof|waar",
        subordinate="dat|die",
    ),
    "nordic": NegationWords(before=r"ikke|inte|ikkje|aldri|aldrig|varken|hverken", contrast="men|utan|bare|kun"),
    "pl": NegationWords(
        before=r"nie|nigdy|ani", affirming=r"nie tylko|nie ma wątpliwości", contrast="lecz|ale|tylko", subordinate="że"
    ),
    "tr": NegationWords(after=r"(?:'\w+)? *değil|olamaz", contrast="ama|fakat"),
    "ru": NegationWords(
        before=r"не|нет|ни|никогда|вряд ли|едва ли|вместо|кроме",
        after=r"[—–-] *(?:это )?не|не (?:является|был\w*)",
        affirming=r"не только|нет сомнени\w+|без сомнения|несомненно|не кто иной как|не что иное как",
        contrast="но|а|только|до",
        belief="думаю|считаю|полагаю|верю|верно|правда",
        subordinate=r"что|котор\w+|где",
    ),
    "el": NegationWords(
        before=r"δεν|όχι|ούτε|ποτέ|μην?",
        after=r"δεν είναι",
        affirming=r"όχι μόνο|δεν υπάρχει αμφιβολία",
        contrast="αλλά|μόνο",
        belief="νομίζω|πιστεύω",
        subordinate="ότι|πως|που",
    ),
    "ar": NegationWords(
        before=r"و?(?:ليس|ليست|لا|لم|لن)|بدلا من",
        after=r"(?:ليس|ليست)",
        affirming=r"لا شك|بلا شك|ليس فقط",
        contrast="بل|لكن|سوى|إلا",
        belief="أعتقد|أظن|صحيحا|صحيح",
        subordinate="أن|التي|الذي",
    ),
    "he": NegationWords(
        before=r"לא|אינו|אינה|איננה|איננו|אין",
        after=r"(?:לא|אינו|אינה|איננה|איננו)",
        affirming=r"אין ספק|לא רק",
        contrast="אלא|רק",
        subordinate="ש|כי",
    ),
    "hi": NegationWords(
        before=r"न(?![\u0900-\u0963])",
        later=r"नहीं|नही",
        affirming=r"न केवल|(?:शक|संदेह) नहीं|ही नहीं",
        contrast="बल्कि|लेकिन",
    ),
    "vi": NegationWords(before=r"không phải|chưa bao giờ", after=r"không phải", contrast="mà"),
    "id": NegationWords(before=r"bukan|tidak", after=r"bukan", contrast="melainkan|tetapi|tapi"),
    "ko": NegationWords(
        later=r"아니|아닙|아닌|아냐|(?:생각|믿)[^.,!?]{0,3}지 ?않",
        affirming=r"틀림없\w*|아닌가|뿐(?:만)? 아니라",
    ),
}
"""Negation words of languages with blanks between words. Latin spellings are folded before use."""

UNSPACED_LANGUAGES: dict[str, NegationWords] = {
    "zh": NegationWords(
        before=r"不(?:是|在|叫|属于|認為|认为|觉得|覺得|相信|同意)|[并並绝絕而]非|沒有|没有|从未|從未|除了|而不是",
        after=r"[并並]?不是|[并並]非|不对|不對",
        affirming=r"没有?人不|沒有?人不|无人不|無人不|没有?疑问|沒有疑問|毫无疑问|毫無疑問|不[仅僅只]是?|不是别的|无非是",
        contrast="而是|而在|只是|[，,]是",
    ),
    "ja": NegationWords(
        later=r"では ?(?:な|あり)|じゃ ?(?:な|あり)|でな[いく]|とは(?:思[わい]|考え|限|言え)|"
        r"と(?:思わ|考えませ|考えな)",
        affirming=r"に違いな\w|しかな\w|間違いな\w|に(?:他|ほか)なら\w+|"
        r"[でじ][はゃ]ない?か(?!ら)|だけで(?:は)?なく",
    ),
    "th": NegationWords(
        before=r"ไม่ใช่|ไม่ได้|มิใช่|ไม่คิดว่า|ไม่เชื่อว่า|แทนที่",
        after=r"ไม่ใช่|มิใช่|ไม่ได้เป็น",
        affirming=r"ไม่ต้องสงสัย|ไม่ใช่แค่|ไม่เพียง|ไม่ใช่ใครอื่น",
        contrast="แต่|หากแต่",
    ),
}
"""Negation words of languages without blanks between words."""


def _any(attribute: str, languages: dict[str, NegationWords]) -> str:
    """Join one attribute of all languages, folded as the texts are."""
    found = "|".join(part for words in languages.values() if (part := getattr(words, attribute)))
    return fold(found, keep_case=True)


_ALL = {**LANGUAGES, **UNSPACED_LANGUAGES}
_WORD = r"(?<![\w'-])(?:{})(?![\w-])"
_NEGATION = re.compile(_WORD.format(_any("before", LANGUAGES)), re.IGNORECASE)
_UNSPACED_NEGATION = re.compile(_any("before", UNSPACED_LANGUAGES))
_AFFIRMING = re.compile(
    _WORD.format(_any("affirming", LANGUAGES)) + "|" + _any("affirming", UNSPACED_LANGUAGES), re.IGNORECASE
)
_CONTRAST = re.compile(
    _WORD.format(_any("contrast", LANGUAGES)) + "|" + _any("contrast", UNSPACED_LANGUAGES), re.IGNORECASE
)
_BELIEF = re.compile(_WORD.format(_any("belief", LANGUAGES)) + "|认为|認為|觉得|覺得|相信|คิดว่า|เชื่อว่า", re.IGNORECASE)
_SUBORDINATE = re.compile(rf"\W*(?:{_any('subordinate', LANGUAGES)})(?!\w)", re.IGNORECASE)
_AFTER = re.compile(rf"[\s\"'”»」』)]*(?:{_any('after', _ALL)})", re.IGNORECASE)
_LATER = re.compile(_any("later", _ALL))
_DENIED = re.compile(
    r"[\"'”»]*[?？؟]\s*(?:no|nope|nein|non|nee|nej|нет|não|nao|hayir|όχι|οχι|לא|لا|いいえ|아니|不)(?!\w)", re.IGNORECASE
)
_COORDINATED = re.compile(r"(?<!\w)(?:and|or|und|oder|et|ou|y|e|и|или|because|weil|when|while|so)(?!\w)", re.IGNORECASE)
_NEW_CLAUSE = re.compile(
    r"\W*(?:and|but|so|it|he|she|they|i|we|und|aber|es|er|sie|et|mais|il|elle|y|pero|и|но|а|он|она|это)(?!\w)",
    re.IGNORECASE,
)
_COPULA = re.compile("[是在叫为為]|คือ|เป็น")
_SENTENCE_END = re.compile(r"[.;:!?\n؛؟。；：！？।]")
_PIECE_END = re.compile(r"[,،，、—–]")


def is_negated(text: str, start: int, end: int) -> bool:
    """Return whether the clause around a mention negates it.

    Args:
        text: Folded text in its own case.
        start: Start of the mention, in characters.
        end: End of the mention.

    >>> is_negated("It is not Oslo.", 10, 14), is_negated("It is not Bergen but Oslo.", 21, 25)
    (True, False)
    """
    before, after = _blanked(text[:start]), _blanked(text[end:])
    scope = _clause_before(before)
    if _DENIED.match(after) or _negated_before(scope):
        return True
    if _AFTER.match(after) and not (UNSPACED.match(after.lstrip()) and _COPULA.search(scope)):
        return True  # After a copula, "不是 …" denies another name: 是上海不是北京.
    rest = _PIECE_END.split(_SENTENCE_END.split(after)[0])[0]
    return bool(_LATER.search(rest))


def _blanked(text: str) -> str:
    """Return a text with blanks over phrases that hold a negation word and affirm."""
    return _AFFIRMING.sub(lambda phrase: " " * len(phrase[0]), text)


def _clause_before(before: str) -> str:
    """Return the part of the sentence before a mention that belongs to its clause.

    A piece between commas belongs to it with the piece that it depends on: "I do not think, that it …", and around a
    relative clause: "not the city, which …, …".
    """
    pieces = _PIECE_END.split(_SENTENCE_END.split(before)[-1])
    scope = pieces.pop()
    while pieces:
        inserted = len(pieces) > 1 and _SUBORDINATE.match(pieces[-1]) and not _NEW_CLAUSE.match(scope)
        if not (inserted or _SUBORDINATE.match(scope)):
            break
        scope = f"{pieces.pop()} {scope}"
    return scope


def _negated_before(scope: str) -> bool:
    """Return whether a negation in the clause reaches its end, where the mention is."""
    found = [hit for hit in _NEGATION.finditer(scope) if _is_negation_word(scope, hit.start())]
    if found:
        rest = scope[found[-1].end() :]
        coordinated = list(_COORDINATED.finditer(rest))
        ended = coordinated and len(rest[coordinated[-1].end() :].split()) > 1
        near = len(rest.split()) <= REACH or _BELIEF.search(scope[found[-1].start() :])
        if near and not ended and not _CONTRAST.search(rest):
            return True
    unspaced = list(_UNSPACED_NEGATION.finditer(scope))
    return bool(unspaced) and not _CONTRAST.search(scope[unspaced[-1].end() :])


def _is_negation_word(scope: str, at: int) -> bool:
    """Return False for a capitalised word within a clause: "Ni" is nickel there."""
    return not (scope[at].isupper() and scope[:at].strip(" \"'([«„“") and not scope.isupper())
