#!/usr/bin/env python3
"""Renders conversations with the reference renderer (transformers' Jinja environment) and writes
tests/fixtures/chat/chat.json for tests/model/test_chat.c. The templates below are the forms that
each family publishes, kept to what a text chat uses.

    HF_HUB_OFFLINE=1 python tests/oracle/chat_oracle.py [SMOLLM2_HF_FOLDER] > tests/fixtures/chat/chat.json
"""
import json
import os
import sys

from transformers.utils.chat_template_utils import render_jinja_template

ALTERNATE = "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}"

CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
          "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
SMOLLM2 = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
           "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
           "Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "
           "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CHATML_BOS = "{{ bos_token }}" + CHATML
CHATML_TRIM = CHATML.replace("message['content']", "message['content'] | trim")
QWEN25 = r"""{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
QWEN3 = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
QWEN3_THINKING = QWEN3.replace(
    r"""    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
""", r"""    {{- '<|im_start|>assistant\n<think>\n' }}
""")
LLAMA2 = ("{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
          "{% set system_message = messages[0]['content'] %}{% else %}"
          "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
          "{% for message in loop_messages %}"
          "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ALTERNATE +
          "{% endif %}{% if loop.index0 == 0 and system_message != false %}"
          "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
          "{% else %}{% set content = message['content'] %}{% endif %}"
          "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
          "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
          "{% endif %}{% endfor %}")
LLAMA2_DEFAULT = LLAMA2.replace("{% set system_message = false %}",
                                "{% set system_message = 'You are a helpful, honest assistant.\\n"
                                "Don\\'t guess.' %}")
LLAMA3 = ("{% set loop_messages = messages %}{% for message in loop_messages %}"
          "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ "
          "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
          "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
          "{% endif %}")
LLAMA31 = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
LLAMA32 = LLAMA31.replace(r"""    {%- set date_string = "26 Jul 2024" %}
""", r"""    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
""")
MISTRAL_V1 = ("{{ bos_token }}{% for message in messages %}"
              "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ALTERNATE +
              "{% endif %}{% if message['role'] == 'user' %}"
              "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
              "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}"
              "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
              "{% endif %}{% endfor %}")
MISTRAL_V2 = MISTRAL_V1.replace("eos_token + ' ' }}", "eos_token}}")
MISTRAL_SYSTEM = r"""{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\n\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL_V3 = (MISTRAL_SYSTEM.replace("loop.first and", "loop.last and")
              .replace('" [INST] "', '"[INST] "').replace('" [/INST]"', '"[/INST]"')
              .replace('" " + message["content"] + eos_token', '" " + message["content"]|trim + eos_token'))
MISTRAL_TEKKEN = (MISTRAL_V3.replace('"[INST] "', '"[INST]"')
                  .replace('" " + message["content"]|trim + eos_token', 'message["content"] + eos_token'))
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
         "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
         "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" + ALTERNATE +
         "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
         "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
         "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}")
GEMMA3 = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""

CASES = [  # label, family, template, bos, eos
    ("chatml", "chatml", CHATML, "", "<|im_end|>"),
    ("smollm2", "chatml", SMOLLM2, "<|im_start|>", "<|im_end|>"),
    ("chatml with bos", "chatml", CHATML_BOS, "<s>", "<|im_end|>"),
    ("chatml with trim", "chatml", CHATML_TRIM, "", "<|im_end|>"),
    ("qwen2.5", "chatml", QWEN25, "", "<|im_end|>"),
    ("qwen3", "chatml", QWEN3, "", "<|im_end|>"),
    ("qwen3 thinking", "chatml", QWEN3_THINKING, "", "<|im_end|>"),
    ("llama2", "llama2", LLAMA2, "<s>", "</s>"),
    ("llama2 with default", "llama2", LLAMA2_DEFAULT, "<s>", "</s>"),
    ("llama3", "llama3", LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    ("llama3.1", "llama3", LLAMA31, "<|begin_of_text|>", "<|eot_id|>"),
    ("llama3.2", "llama3", LLAMA32, "<|begin_of_text|>", "<|eot_id|>"),
    ("mistral v1", "mistral", MISTRAL_V1, "<s>", "</s>"),
    ("mistral v2", "mistral", MISTRAL_V2, "<s>", "</s>"),
    ("mistral with system", "mistral", MISTRAL_SYSTEM, "<s>", "</s>"),
    ("mistral v3", "mistral", MISTRAL_V3, "<s>", "</s>"),
    ("mistral tekken", "mistral", MISTRAL_TEKKEN, "<s>", "</s>"),
    ("zephyr", "zephyr", ZEPHYR, "<s>", "</s>"),
    ("gemma", "gemma", GEMMA, "<bos>", "<eos>"),
    ("gemma3", "gemma", GEMMA3, "<bos>", "<eos>"),
]


def m(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


CONVERSATIONS = [
    m(("user", "Hello, who are you?")),
    m(("system", "Be brief."), ("user", "What is 2 + 2?")),
    m(("user", "  spaces around\nand lines \n"), ),
    m(("user", "Hi"), ("assistant", "Hello! "), ("user", "Bye 👋 – ça va?")),
    m(("system", "Two\nlines. "), ("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nb"),
      ("user", "c"), ("assistant", " d"), ("user", "{{ e }} 'quoted' \"twice\"")),
    m(("system", ""), ("user", "An empty system message.")),
    m(("user", "a"), ("user", "b")),
]


def main():
    rows = []
    cases = list(CASES)
    if len(sys.argv) > 1:
        with open(os.path.join(sys.argv[1], "chat_template.jinja"), encoding="utf-8") as f:
            assert f.read() == SMOLLM2, "the model's own template differs from the one above"
    for label, family, template, bos, eos in cases:
        for messages in CONVERSATIONS:
            try:
                rendered, _ = render_jinja_template(
                    [messages], chat_template=template, add_generation_prompt=True,
                    bos_token=bos, eos_token=eos,
                    # the date that the template falls back to where there is no clock
                    **({"date_string": "26 Jul 2024"} if label == "llama3.2" else {}))
                expected = rendered[0]
            except Exception:  # the template raises on what it cannot express
                expected = None
            rows.append({"label": label, "family": family, "template": template, "bos": bos,
                         "eos": eos, "messages": messages, "expected": expected})
    json.dump(rows, sys.stdout, ensure_ascii=False, indent=0)
    print()


main()
