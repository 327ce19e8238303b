//! Hostile templates end with an error within the limits, in bounded memory.

use std::alloc::System;

use cap::Cap;
use serde_json::json;
use tempfile::TempDir;
use text::chat::{PROMPT_BYTES_MAX, STEPS_BASE};
use text::{ChatError, ChatTemplate, Conversation};

/// The only test here, as it limits the heap of the process.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// What a step may take of memory: 64 bytes, and as many again while a string or a list grows.
const BYTES_OF_STEP: usize = 128;

/// Templates that would take the machine's time, memory or stack.
const HOSTILE: &[&str] = &[
    // Time.
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% for i in range(9) %}{{ m(n + 1) }}{% endfor %}{% endmacro %}{{ m(0) }}",
    "{% set s = 'ab' * 100000 %}{% for a in range(99999) %}{{ s.count('ba') }}{% endfor %}",
    "{% set s = 'ab' * 100000 %}{% for a in range(99999) %}{{ 'bb' in s }}{% endfor %}",
    "{% set s = 'ab' * 100000 %}{% for a in range(99999) %}{{ s == s ~ 'x' }}{% endfor %}",
    "{% set s = 'ab' * 100000 %}{% for a in range(99999) %}{{ s.split('a')|length }}{% endfor %}",
    "{% set s = 'ab' * 100000 %}{% for a in range(99999) %}{{ s[99999] }}{% endfor %}",
    "{% set s = 'é ' * 100000 %}{% for a in range(99999) %}{{ s[99999] }}{{ s[::-1]|length }}{% endfor %}",
    "{% set l = range(99999)|list %}{% for a in l %}{{ l|sort|length }}{{ -1 in l }}{{ l.index(99998) }}{% endfor %}",
    "{% set l = range(99999)|list %}{% for a in l %}{{ l|sum }}{{ l|join|length }}{{ l == l[:] }}{% endfor %}",
    // Memory.
    "{{ 'x' * 1000000000 }}",
    "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(l=[1]) %}{% for a in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l|length }}",
    "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
    "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
    "{% set ns = namespace(l=['x']) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    "{% set ns = namespace(l=['x']) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
    "{% set ns = namespace(l=['x']) %}{% for a in range(99) %}{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l|string }}",
    "{% set ns = namespace(l=['x']) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ 'x' ~ ns.l }}",
    "{% set ns = namespace(l=['x']) %}{% for a in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == ns.l[:] }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ [1]|tojson(indent=' ' * 1000000) }}{{ [[[[1]]]]|tojson(indent='x' * 1000000) }}{% for a in range(99999) %}{{ [1]|tojson(indent='x' * 1000000) }}{% endfor %}",
    "{{ ('x' * 100000).join(range(99999)) }}",
    "{{ range(99999)|join('x' * 100000) }}",
    "{{ 'x'|indent(1000000000) }}{{ ('\n' * 100000)|indent(100000, true, true) }}",
    "{{ 'x'|center(1000000000) }}",
    "{{ range(99999)|batch(3, 'x' * 1000000)|list|length }}{% for a in range(99999) %}{{ range(99999)|list|length }}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "{% for a in range(99999) %}{{ strftime_now('%B' * 10000) }}{% endfor %}",
    // Stack.
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}{% call m() %}{{ n() }}{% endcall %}{% endmacro %}{{ n() }}",
    "{% for a in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
];

#[test]
fn hostile_templates_end_with_an_error_in_bounded_memory() {
    let limit = STEPS_BASE as usize * BYTES_OF_STEP + 2 * PROMPT_BYTES_MAX;
    for source in HOSTILE {
        eprintln!("{source}");
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
        let template = ChatTemplate::open(dir.path()).unwrap();
        let messages = vec![json!({"role": "user", "content": "Hi"})];
        let conversation = Conversation { messages, ..Conversation::default() };
        let before = HEAP.allocated();
        HEAP.set_limit(before + limit).unwrap();
        let outcome = template.render(&conversation);
        HEAP.set_limit(usize::MAX).unwrap();
        let error = outcome.expect_err(source);
        let is_limit = matches!(error, ChatError::Work { .. } | ChatError::TooLong { .. } | ChatError::Failed { .. });
        assert!(is_limit, "{source}: {error}");
    }
}
