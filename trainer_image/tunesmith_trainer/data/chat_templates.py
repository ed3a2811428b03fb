"""The text of our chat templates, in the Jinja that transformers runs.

All but ChatML end an answer with the model's own end token and nothing else, so that any tokenizer
will do. Called by ``templates``.
"""

from tunesmith_api.templating import Template

# A model that was not made for ChatML ends its text with its own end token, which stands behind
# each answer so that serving knows where to stop.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% if message['role'] == 'assistant' and eos_token and eos_token != '<|im_end|>' %}"
    "{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The blank stands before the answer and not behind the colon: byte-level tokenizers have it in the
# answer's first token.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + (eos_token or '') + '\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_SECTIONS = (
    "{% elif message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + message['content'] + (eos_token or '') + '\n\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
INSTRUCTION = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}" + _SECTIONS
)
# The sentence is that of Stanford Alpaca (Taori et al. 2023); a system message takes its place.
ALPACA = (
    "{% if messages and messages[0]['role'] != 'system' %}"
    "{{ 'Below is an instruction that describes a task. Write a response that appropriately"
    " completes the request.\n\n' }}{% endif %}" + INSTRUCTION
)
TEXTS = {
    Template.CHAT_ML: CHATML,
    Template.PLAIN: PLAIN,
    Template.INSTRUCTION: INSTRUCTION,
    Template.ALPACA: ALPACA,
}
