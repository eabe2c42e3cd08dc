"""Chat templates in the forms of the model families, and a small vocabulary with their tokens."""

import json

import tokenizers

from restem.tokenizers.chat_template import ChatTemplate
from restem.tokenizers.tokenizer_json import TokenizersVocabulary
from restem.tokenizers.vocabulary import Specials
from tests.helpers import vocabularies

CHATML = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- if strftime_now is defined %}
    {%- set today = strftime_now("%d %b %Y") %}
{%- else %}
    {%- set today = "26 Jul 2024" %}
{%- endif %}
{%- set rest = messages %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + today + "\\n\\n" }}
{%- if messages[0]['role'] == 'system' %}
    {{- messages[0]['content'] | trim }}
    {%- set rest = messages[1:] %}
{%- endif %}
{{- "<|eot_id|>" }}
{%- for message in rest %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception('System role not supported') }}
{%- endif -%}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' + (message['content'] | trim) + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""

MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + message.content + ' [/INST]' }}
    {%- elif message.role == 'assistant' %}
        {%- generation %}{{- ' ' + message.content + eos_token }}{%- endgeneration %}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL}
TURN_ENDS = {
    "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>",
    "mistral": "<|end_of_text|>",
}  # fmt: skip
SPECIAL_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>",
    "<end_of_turn>",
)  # fmt: skip


def tokenizer_json() -> bytes:
    """Returns `vocabularies.llama3_tokenizer` with the special tokens of all templates."""
    tokenizer = tokenizers.Tokenizer.from_str(vocabularies.llama3_tokenizer().decode())
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer.to_str().encode()


def vocabulary(name: str) -> TokenizersVocabulary:
    """Returns a vocabulary with one of `TEMPLATES`; only <|end_of_text|> ends its texts."""
    model = tokenizer_json()
    ids = {t["content"]: t["id"] for t in json.loads(model)["added_tokens"]}
    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    specials = Specials(
        bos_id=ids[bos], eos_ids=frozenset({ids[eos]}), pad_id=ids[eos], add_bos=True
    )
    template = ChatTemplate(TEMPLATES[name], {"bos_token": bos, "eos_token": eos})
    return TokenizersVocabulary(model, specials, template)
