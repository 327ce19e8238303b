//! Deep values, deep source, long conversations and random ones: nothing panics or overflows the stack.

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use text::chat::PROMPT_BYTES_MAX;
use text::{ChatError, ChatTemplate, Conversation};

fn template(source: &str) -> ChatTemplate {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    ChatTemplate::open(dir.path()).unwrap()
}

fn conversation() -> Conversation {
    Conversation { messages: vec![json!({"role": "user", "content": "Hi"})], ..Conversation::default() }
}

/// Templates that build what is deep, and then do nothing with it that a limit would notice.
const DEEP: &[&str] = &[
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}",
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = {'a': ns.l} %}{% endfor %}",
    "{% set ns = namespace(l=[]) %}{% for a in range(99999) %}{% set ns.l = (ns.l, 1) %}{% endfor %}",
    "{% set ns = namespace(l=[]) %}{% for a in range(50000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l == ns.l[:] }}",
    "{% set ns = namespace(l=[], m=[]) %}{% for a in range(40000) %}{% set ns.l = [ns.l] %}{% set ns.m = [ns.m] %}{% endfor %}\
     {{ ns.l == ns.m }}",
    "{% set ns = namespace(l=[]) %}{% for a in range(50000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ 'x' ~ ns.l }}",
    "{% set ns = namespace(l=[]) %}{% for a in range(50000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ {ns.l: 1} }}",
    "{% set ns = namespace(l=[]) %}{% for a in range(50000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ [ns.l]|join }}",
    "{% set ns = namespace(l=[1]) %}{% for a in range(50000) %}{% set ns.l = ns.l|map('int') %}{% endfor %}{{ ns.l|list }}",
    "{% set ns = namespace(l=[1]) %}{% for a in range(50000) %}{% set ns.l = ns.l[:] %}{% endfor %}{{ ns.l|list }}",
    "{% set ns = namespace(l=[1]) %}{% for a in range(50000) %}{% set ns.l = ns.l|reverse %}{% endfor %}{{ ns.l|list }}",
    "{% set ns = namespace(x=1) %}{% for a in range(9999) %}{% set ns.x = joiner(ns.x) %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
];

#[test]
fn deep_values_do_not_overflow_the_stack() {
    for source in DEEP {
        // Only that it ends is asked for.
        let _ = template(source).render(&conversation());
    }
}

#[test]
fn deep_source_is_refused_or_rendered() {
    let pieces = [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{'a':", "1", "}"),
        ("-", "1", ""),
        ("not ", "1", ""),
        ("a.b(", "1", ")"),
        ("a if ", "1", ""),
        ("1+", "1", ""),
        ("1 ** ", "1", ""),
        ("", "a", ".a"),
        ("", "a", "|upper"),
        ("", "[1]", "[:]"),
        ("", "[1]", "|reverse"),
        ("", "a", "[0]"),
        ("", "a", "()"),
        ("", "1", " and 1"),
        ("", "1", " ~ 1"),
    ];
    let tags = [
        ("{% if true %}", "{% endif %}"),
        ("{% for a in [1] %}", "{% endfor %}"),
        ("{% if a %}{% elif b %}", "{% endif %}"),
    ];
    for bytes in [3_000, 200_000] {
        for (before, inner, after) in pieces {
            let count = bytes / (before.len() + after.len());
            let (before, after) = (before.repeat(count), after.repeat(count));
            render_if_it_opens(&format!("{{{{ {before}{inner}{after} }}}}"));
            render_if_it_opens(&format!("{{% set x = {before}{inner}{after} %}}{{{{ x }}}}"));
        }
        for (open, close) in tags {
            let count = bytes / (open.len() + close.len());
            render_if_it_opens(&(open.repeat(count) + &close.repeat(count)));
        }
        // One statement after the other.
        render_if_it_opens(&"{% set x = [x] %}".repeat(bytes / 17));
        render_if_it_opens(&("{% set x = namespace(x=x) %}".repeat(bytes / 28) + "{{ x }}{{ x == 1 }}{{ 'x' ~ x }}"));
    }
}

fn render_if_it_opens(source: &str) {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), source).unwrap();
    if let Ok(template) = ChatTemplate::open(dir.path()) {
        let _ = template.render(&conversation());
    }
}

#[test]
fn a_long_conversation_has_more_steps() {
    let template = template("{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content.strip() ~ ';' }}{% endfor %}");
    let of = |bytes: usize, count: usize| {
        let message = json!({"role": "user", "content": "x".repeat(bytes)});
        template.render(&Conversation { messages: vec![message; count], ..Conversation::default() })
    };
    assert_eq!(of(1 << 20, 3).unwrap().len(), 3 * ((1 << 20) + 7));
    assert_eq!(of(1, 20_000).unwrap().len(), 20_000 * 8);
    assert_eq!(of(1 << 20, 4), Err(ChatError::TooLong { bytes: PROMPT_BYTES_MAX }));
}

#[test]
fn an_object_of_many_keys_is_looked_up_in_no_time() {
    let keys: Map<String, Value> = (0..30_000).map(|key| (format!("key{key}"), Value::from(key))).collect();
    let message = json!({"role": "user", "content": keys});
    let template = template("{% for k in messages[0].content %}{{ messages[0].content[k] }} {% endfor %}");
    let prompt = template.render(&Conversation { messages: vec![message], ..Conversation::default() }).unwrap();
    assert!(prompt.starts_with("0 1 2 3 ") && prompt.ends_with(" 29998 29999 "));
}

/// Any JSON that a client may send where a message or a part is expected.
fn random_json(random: &mut fastrand::Rng, depth: usize) -> Value {
    let text = ["", "Hi", " é\n", "<|im_end|>", "{{ x }}", "assistant", "text", "{\"a\": 1}", "\u{1c}"];
    match random.usize(..if depth == 0 { 5 } else { 8 }) {
        0 => Value::Null,
        1 => Value::from(random.bool()),
        2 => Value::from(random.i64(..)),
        3 => Value::from(random.f64() * 1e20),
        4 | 5 => Value::from(text[random.usize(..text.len())]),
        6 => (0..random.usize(..4)).map(|_| random_json(random, depth - 1)).collect(),
        _ => Value::Object(random_object(random, depth - 1)),
    }
}

fn random_object(random: &mut fastrand::Rng, depth: usize) -> Map<String, Value> {
    let keys = ["role", "content", "type", "text", "tool_calls", "function", "arguments", "name", "items", "reasoning"];
    let mut object = Map::new();
    for _ in 0..random.usize(..6) {
        let key = keys[random.usize(..keys.len())];
        object.insert(key.to_owned(), random_json(random, depth));
    }
    object
}

#[test]
fn random_conversations_never_panic() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    eprintln!("seed {seed}");
    let roles = ["system", "user", "assistant", "tool", "other"];
    let sources = [
        include_str!("../src/chat/falcon.jinja"),
        include_str!("../../../testdata/chat-templates/templates/qwen3.jinja"),
        include_str!("../../../testdata/chat-templates/templates/gptoss_training.jinja"),
        include_str!("../../../testdata/chat-templates/templates/idefics3.jinja"),
        "{{ messages }}{{ messages|tojson(indent=2) }}{% for m in messages %}{{ m.content }}{% endfor %}",
    ];
    let templates = sources.map(template);
    let mut rendered = 0;
    for _ in 0..3000 {
        let message = |random: &mut fastrand::Rng| {
            let mut message = random_object(random, 4);
            if random.usize(..8) > 0 {
                message.insert("role".to_owned(), Value::from(roles[random.usize(..roles.len())]));
                message.insert("content".to_owned(), Value::from("text"));
            }
            if random.usize(..20) > 0 { Value::Object(message) } else { random_json(random, 2) }
        };
        let messages: Vec<Value> = (0..random.usize(..6)).map(|_| message(&mut random)).collect();
        let continue_final_message = random.bool();
        let conversation = Conversation {
            messages,
            tools: random.bool().then(|| vec![random_json(&mut random, 4)]),
            documents: random.bool().then(|| vec![random_json(&mut random, 4)]),
            add_generation_prompt: !continue_final_message || random.usize(..9) == 0,
            continue_final_message,
            kwargs: random_object(&mut random, 3),
            unix_seconds: random.u64(..1 << 40),
            ..Conversation::default()
        };
        for template in &templates {
            rendered += usize::from(template.render(&conversation).is_ok());
        }
    }
    assert!(rendered > 1000, "seed {seed}: only {rendered}");
}
