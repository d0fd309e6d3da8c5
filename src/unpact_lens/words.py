"""Define words, and list English function words."""

from __future__ import annotations

import re

WORD = re.compile(r"\w+(?:['’-]\w+)*")
"""Pattern of a word: letters and digits, with apostrophes and hyphens inside."""

_ENGLISH = """
a an the this that these those which what who whom whose where when why how and or but if then than
as at by for from in into of on to with about is are was were be been being am do does did have has
had can could will would shall should may might must not no it its he him his she her they them
their we us our you your i me my
"""

ENGLISH_FUNCTION_WORDS: tuple[str, ...] = tuple(_ENGLISH.split())
"""English function words, a value for the argument `stopwords=`."""
