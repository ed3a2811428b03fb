"""Today's date in chat templates: one and the same day in all that is trained on and measured.

Llama 3.2's template, and others since, write the day on which they are run into the system message,
by ``strftime_now``. So the same data and seed would give other tokens every day, and a run that
goes on after midnight another model than one that was not interrupted. Here the day is fixed; the
template that is saved with the model is not touched, so serving shows the real one. Pure; called by
``templates`` and whoever asks models questions.
"""

from datetime import date, datetime
from functools import lru_cache
from string import ascii_letters
from typing import Any

TEMPLATE_DATE = date(2024, 7, 26)
"""The one that Llama 3.2's template has itself for engines that do not know the day."""

_CALL = "strftime_now"
_PERCENT = "\0"


def has_date(tokenizer: Any) -> bool:
    """Say whether the tokenizer's chat template asks for the day."""
    return _CALL in _template(tokenizer)


def date_shown(tokenizer: Any) -> str:
    """Give the day that rows show, as YYYY-MM-DD; empty where the template asks for none."""
    return TEMPLATE_DATE.isoformat() if has_date(tokenizer) else ""


def dated(tokenizer: Any) -> dict[str, str]:
    """Give the argument for ``apply_chat_template`` that fixes the day; none where none is asked.

    The function itself cannot be given: transformers passes plain data on to templates only.
    """
    template = _template(tokenizer)
    # The line end is the block's own: what follows begins a line, as it did.
    return {"chat_template": f"{_macro()}\n{template}"} if _CALL in template else {}


def _template(tokenizer: Any) -> str:
    # Where a model has several by name, this is the one for conversations without tools.
    return str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""


@lru_cache(maxsize=1)
def _macro() -> str:
    """Give a macro that stands before the function of the same name and formats the fixed day."""
    midnight = datetime.combine(TEMPLATE_DATE, datetime.min.time())
    # %s counts from the machine's own time zone.
    letters = ascii_letters.replace("s", "")
    codes = [f"%{flag}{letter}" for flag in ("", "-") for letter in letters]
    shown = {code: midnight.strftime(code) for code in codes}
    known = [("%%", _PERCENT), *((c, text) for c, text in shown.items() if text != c)]
    steps = "".join(f"|replace({code!r}, {text!r})" for code, text in [*known, (_PERCENT, "%")])
    return f"{{%- macro {_CALL}(format) -%}}{{{{ format{steps} }}}}{{%- endmacro %}}"
