"""Writes jinja.json: templates and what Jinja itself prints for them, compiled and
rendered as transformers does (utils/chat_template_utils.py). Needs jinja2 only:

    python jinja.py
"""
import json
import pathlib

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Each row: why it is here, and the template.
TEMPLATES = [
    ("minus sign strips only the text beside the tag", "foo {{ a }}{%- if true %}x{% endif %}"),
    ("minus signs on both sides", "  {{ a }} {%- if true -%} {{ a }} y{% endif %}"),
    ("blocks on their own lines vanish", "a\n  {% if true %}\n  b\n  {% endif %}\nc\n"),
    ("only the last newline is dropped", "x\n\n"),
    ("carriage returns become newlines", "a\r\n{% if true %}\r\nb\r{% endif %}\r\nc"),
    ("comments are trimmed like blocks", "a\n  {# note #}\nb {# note -#}\n\n c"),
    ("plus signs keep white space", "a\n  {%+ if true +%}\n b{% endif %}"),
    ("outputs keep white space", "a\n  {{ a }}\n  b"),
    ("white space in a line that a tag ended", "{% if true %}\n  {% if true %}x{% endif %}{% endif %}"),
    ("white space between tags of one line stays", "{{ a }} {% if true %}x{% endif %}"),
    ("raw text", "{% raw %}{{ a }} {% x %}{% endraw %}\n|{% raw -%}  b  {%- endraw -%}  c"),
    ("braces of a dict do not end an output", "{{ {'a': {'b': 1}} }}|{{ {'k': '}}'}['k'] }}"),
    ("escapes of a string", r"{{ 'tab\tnew\nquote\'\"back\\\u00e9\x41\101\q' }}"),
    ("neighbouring strings join", "{{ 'a' \"b\" }}"),
    ("non-ASCII text and strings", "北京{{ '京' ~ a }}🙂"),
    ("spelling of values", "{{ none }} {{ true }} {{ 1 }} {{ 1.0 }} {{ 1e16 if false else 0.5 }} {{ 10 / 4 }} {{ u }}"),
    ("spelling of lists and dicts", "{{ [none, true, 'it\\'s', 'say \"x\"', 1.5, 'a\\nb'] }} {{ {'k': [1]} }}"),
    ("order of keys", "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}={{ v }},{% endfor %}{{ {'b': 1, 'a': 2} | tojson }}"),
    ("JSON of Python", "{{ ['é<b>&\\'\"\\\\\\n', 1, 1.0, none, true, {}, [], {'a': {}}] | tojson }}"),
    ("JSON with indentation", "{{ {'a': [1, {'b': none}], 'c': [], 'd': {}} | tojson(indent=2) }}"),
    ("JSON with separators", "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}"),
    ("JSON of the data", "{{ data | tojson }}"),
    ("floats of the data", "{% for x in data.floats %}{{ x }} {% endfor %}"),
    ("a namespace outlives a loop", "{% set ns = namespace(x=1) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}"),
    ("loop variables", "{% for x in 'abc' %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.previtem if loop.previtem is defined }};{% endfor %}"),
    ("loop filter, else, break and continue", "{% for x in [1,2,3,4,5] if x % 2 %}{% if x == 3 %}{% continue %}{% endif %}{{ x }}{% if x == 5 %}{% break %}{% endif %}{% endfor %}{% for x in [] %}{% else %}none{% endfor %}"),
    ("range", "{{ range(3) | list }}{{ range(1, 4) | list }}{{ range(5, 0, -2) | list }}{{ range(4, 4) | list }}{{ range(0, 7, 3) | list }}"),
    ("macros", "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, b=3) }}"),
    ("a macro that calls itself", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}"),
    ("call blocks", "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}x{% endcall %}"),
    ("set blocks", "{% set x %}a{{ a }}{% endset %}{{ x }}"),
    ("string methods", "{{ 'a,b'.split(',')[-1] }}{{ '  x '.strip() }}{{ 'xxaxx'.lstrip('x') }}{{ 'ab'.startswith('a') }}{{ 'aXbX'.replace('X', '--') }}{{ 'aXbX' | replace('X', '-', 1) }}|{{ 'a b'.upper().replace(' ', '').lower() }}"),
    ("slices", "{{ 'abc'[::-1] }}{{ [1,2,3][1:] }}{{ [1,2,3][-1] }}{{ 'abcdef'[1:4] }}"),
    ("filters", "{{ ' x ' | trim }}{{ ['a', 'b'] | join(', ') }}{{ [1,2] | length }}{{ [3,1] | sort }}{{ a | default('z') }}{{ u | default('z') }}{{ [1, 2] | first }}{{ 'Ab' | lower }}"),
    ("tests", "{{ a is string }}{{ u is defined }}{{ none is none }}{{ {} is mapping }}{{ 1 is number }}{{ [] is iterable }}{{ a is not string }}"),
    ("operators", "{{ 'a' in 'abc' }}{{ 4 in [1,2] }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 3 * 4 - 2 }}{{ 2 + 3 * (1 + 1) }}{{ 'a' ~ 1 }}{{ not true or 1 == 1 and 2 >= 1 }}"),
    ("conditional expression", "{{ 'x' if a == 'A' else 'y' }}{{ 'x' if a == 'B' else 'y' }}[{{ 'x' if false }}]"),
]
DATA = {
    "z": 1, "a": [18446744073709551615, -9223372036854775808, 1.0, 1e-5, 1e16, 123456789.125, -0.0, 1e22],
    "text": "\u0001\b\f\u007f\u2028 naïve", "nested": {"b": True, "a": None}, "floats": [0.1, 100.0, 1e-4, 12345678901234567.0],
}


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def main():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    rows = [
        {"why": why, "template": source, "rendered": env.from_string(source).render(a="A", data=DATA)}
        for why, source in TEMPLATES
    ]
    out = pathlib.Path(__file__).with_name("jinja.json")
    out.write_text(json.dumps({"data": DATA, "rows": rows}, indent=1, ensure_ascii=False) + "\n")


main()
