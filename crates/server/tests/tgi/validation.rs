//! Every rule of validation with its message, the order of the rules, and what a valid request comes to.

use api::{Limits, Priority, Prompt, ValidRequest, Violation};
use serde_json::{Value, json};
use server::dialects::tgi::{self, ErrorBody, GenerateRequest, Inputs, field_name, message};
use step::{Choice, SamplingSettings};

const FRESH_SEED: u64 = 77;

fn limits() -> Limits {
    Limits { max_input_length: 10, max_total_tokens: 30, ..Limits::of_model(2048, 1_000, 8) }
}

/// One token for each word: its length.
fn encode(prompt: Prompt, truncate: Option<usize>) -> Result<Vec<u32>, Violation> {
    let Prompt::Text(text) = prompt else { panic!("TGI has texts and ids") };
    if text.contains("poison") {
        return Err(Violation::Tokenizer("cannot read it".into()));
    }
    let ids: Vec<u32> = text.split_whitespace().map(|word| word.len() as u32).collect();
    Ok(ids[ids.len() - truncate.unwrap_or(ids.len()).min(ids.len())..].to_vec())
}

fn validate(request: GenerateRequest, stream: bool, limits: &Limits) -> Result<ValidRequest, Violation> {
    api::check(request.translate(stream, &tgi::Limits::default())?, limits, FRESH_SEED)?.encode(limits, encode)
}

fn field(violation: &Violation) -> &'static str {
    field_name(violation.field())
}

fn request(inputs: &str, parameters: Value) -> GenerateRequest {
    let parameters = serde_json::from_value(parameters).unwrap();
    GenerateRequest { inputs: Inputs::Text(inputs.into()), parameters, stream: false, priority: Priority::Normal }
}

fn check(inputs: &str, parameters: Value, stream: bool) -> Result<ValidRequest, Violation> {
    validate(request(inputs, parameters), stream, &limits())
}

#[test]
fn each_rule_has_its_message_and_its_field() {
    let rows = [
        (json!({"best_of": 3, "do_sample": true}), "best_of", "`best_of` must be > 0 and <= 2. Given: 3"),
        (json!({"best_of": 2}), "best_of", "you must use sampling when `best_of` is > 1"),
        (json!({"temperature": 0.0}), "temperature", "`temperature` must be strictly positive"),
        (json!({"repetition_penalty": -1.0}), "repetition_penalty", "`repetition_penalty` must be strictly positive"),
        (json!({"frequency_penalty": 1e39}), "frequency_penalty", "`frequency_penalty` must be a finite number"),
        (json!({"top_p": 1.0}), "top_p", "`top_p` must be > 0.0 and < 1.0"),
        (json!({"typical_p": 0.0}), "typical_p", "`typical_p` must be > 0.0 and < 1.0"),
        (json!({"top_k": 0}), "top_k", "`top_k` must be strictly positive"),
        (json!({"top_k": -5}), "top_k", "`top_k` must be strictly positive"),
        (json!({"max_new_tokens": 0}), "max_new_tokens", "`max_new_tokens` must be strictly positive"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", "`stop` supports up to 4 stop sequences. Given: 5"),
        (
            json!({"stop": ["a", "b".repeat(4097)]}),
            "stop",
            "`stop` sequences must have at most 4096 bytes. Given: 4097",
        ),
        (json!({"best_of": 2, "top_k": 5, "seed": 1}), "seed", "`seed` must not be set when `best_of` > 1"),
        (json!({"top_n_tokens": 6}), "top_n_tokens", "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        (json!({"grammar": {"type": "regex", "value": "a+"}}), "grammar", "`grammar` is not supported yet"),
        (json!({"truncate": 0}), "truncate", "`truncate` must be strictly positive and less than 10. Given: 0"),
        (json!({"truncate": 11}), "truncate", "`truncate` must be strictly positive and less than 10. Given: 11"),
    ];
    for (parameters, name, text) in rows {
        let error = check("some words", parameters.clone(), false).unwrap_err();
        assert_eq!((field(&error), &*message(&error)), (name, text), "{parameters}");
        assert_eq!(ErrorBody::from(&error).error, format!("Input validation error: {text}"));
    }

    // Ten tokens have at most eighty bytes.
    let (long, longer) = ("word ".repeat(11), "w".repeat(81));
    let rows = [
        ("", json!({}), "`inputs` cannot be empty"),
        (&*longer, json!({}), "`inputs` must have at most 80 bytes, as many as 10 tokens can have. Given: 81 bytes"),
        ("  ", json!({}), "`inputs` cannot be empty"),
        ("poison", json!({}), "tokenizer error cannot read it"),
        (&*long, json!({"max_new_tokens": 19}), "`inputs` must have less than 10 tokens. Given: 11"),
        (
            &*long,
            json!({"max_new_tokens": 20}),
            "`inputs` tokens + `max_new_tokens` must be <= 30. Given: 11 `inputs` tokens and 20 `max_new_tokens`",
        ),
        (
            "one",
            json!({"max_new_tokens": u32::MAX}),
            "`inputs` tokens + `max_new_tokens` must be <= 30. Given: 1 `inputs` tokens and 4294967295 `max_new_tokens`",
        ),
    ];
    for (inputs, parameters, text) in rows {
        let error = check(inputs, parameters, false).unwrap_err();
        assert_eq!((field(&error), &*message(&error)), ("inputs", text));
    }
}

#[test]
fn streams_have_rules_of_their_own() {
    let best_of = "`best_of` != 1 is not supported when streaming tokens";
    let prefill = "`decoder_input_details` == true is not supported when streaming tokens";
    let rows = [
        (json!({"best_of": 2, "do_sample": true}), best_of),
        (json!({"best_of": 0, "decoder_input_details": true, "temperature": 0.0}), best_of),
        (json!({"decoder_input_details": true, "temperature": 0.0}), prefill),
    ];
    for (parameters, text) in rows {
        assert_eq!(message(&check("a", parameters, true).unwrap_err()), text);
    }
    assert_eq!(check("a", json!({"best_of": 0}), false).unwrap().best_of, 1);
    assert!(check("a", json!({"best_of": 1}), true).is_ok());

    let one = tgi::Limits { max_best_of: 1, ..tgi::Limits::default() };
    let disabled = request("a", json!({"best_of": 2})).translate(false, &one).unwrap_err();
    assert_eq!(message(&disabled), "`best_of` != 1 is not allowed for this endpoint");
}

/// A request that breaks all rules at once, mended rule by rule, meets them in TGI's order.
#[test]
fn the_first_error_is_the_same() {
    let mut parameters = json!({
        "best_of": 3, "temperature": 0.0, "repetition_penalty": 0.0, "frequency_penalty": 1e39, "top_p": 0.0,
        "typical_p": 0.0, "top_k": 0, "max_new_tokens": 0, "stop": ["", "", "", "", ""], "seed": 1, "top_n_tokens": 9,
        "truncate": 0,
    });
    let mends = [
        ("best_of", json!(2)),
        ("temperature", json!(0.5)),
        ("repetition_penalty", json!(1.1)),
        ("frequency_penalty", json!(0.1)),
        ("top_p", json!(0.5)),
        ("typical_p", json!(0.5)),
        ("top_k", json!(4)),
        ("max_new_tokens", json!(30)),
        ("stop", json!([])),
        ("seed", json!(null)),
        ("top_n_tokens", json!(5)),
    ];
    for (name, mended) in mends {
        assert_eq!(field(&check("", parameters.clone(), false).unwrap_err()), name);
        parameters[name] = mended;
    }
    assert_eq!(check("", parameters.clone(), false), Err(Violation::EmptyPrompt));
    let long = "word ".repeat(12);
    assert!(long.len() <= limits().max_input_bytes());
    assert_eq!(field(&check(&long, parameters.clone(), false).unwrap_err()), "truncate");
    parameters["truncate"] = json!(null);
    assert!(matches!(check(&long, parameters.clone(), false), Err(Violation::TotalTokens { .. })));
    parameters["max_new_tokens"] = json!(1);
    assert!(matches!(check(&long, parameters.clone(), false), Err(Violation::PromptTokens { .. })));
    assert!(check("word", parameters, false).is_ok());
}

/// A text that is too long for its bytes alone is never tokenized, unless only its end counts.
#[test]
fn texts_beyond_any_prompt_are_not_tokenized() {
    let with = |bytes: usize, parameters: Value| {
        api::check(request(&"w".repeat(bytes), parameters).translate(false, &tgi::Limits::default())?, &limits(), 0)
    };
    assert!(with(80, json!({})).is_ok());
    assert_eq!(with(81, json!({})), Err(Violation::PromptBytes { max: 80, tokens: 10, given: 81 }));
    assert_eq!(field(&with(81, json!({"temperature": 0.0})).unwrap_err()), "temperature");
    assert_eq!(with(4_000_000, json!({"truncate": 10})).unwrap().truncate, Some(10));
    assert!(Limits { token_bytes_max: usize::MAX, ..limits() }.check_bytes("w").is_ok());
}

#[test]
fn limits_are_inclusive_although_the_messages_say_less() {
    let ten = "word ".repeat(10);
    assert!(check(&ten, json!({"max_new_tokens": 20}), false).is_ok());
    assert!(check(&ten, json!({"truncate": 10}), false).is_ok());
    assert!(check("a", json!({"top_n_tokens": 5, "stop": ["a", "b", "c", "d"], "max_new_tokens": 29}), false).is_ok());
}

#[test]
fn defaults() {
    let bare: GenerateRequest = serde_json::from_value(json!({"inputs": "a bc"})).unwrap();
    let valid = validate(bare, false, &limits()).unwrap();
    assert_eq!(valid.prompt, [1, 2]);
    assert_eq!((valid.max_tokens, valid.n, valid.best_of, valid.top_tokens), (20, 1, 1, 0));
    assert_eq!(valid.sampling(0), step::SamplingParams::GREEDY);
    assert_eq!(valid.seed(0), None);
    assert!(valid.keep_stop && !valid.prompt_logprobs && !valid.ignore_eos);
    assert!(valid.stop.is_empty());
    assert!(check("a", json!({"decoder_input_details": true}), false).unwrap().prompt_logprobs);
}

#[test]
fn truncation_keeps_the_last_tokens() {
    let long = "a bb ccc dddd ".repeat(10);
    assert_eq!(check(&long, json!({"truncate": 3}), false).unwrap().prompt, [2, 3, 4]);
    assert_eq!(check("a bb", json!({"truncate": 3}), false).unwrap().prompt, [1, 2]);
}

#[test]
fn prompts_of_token_ids() {
    let with = |inputs| {
        let request = GenerateRequest { inputs, ..request("", json!({"truncate": 2})) };
        let request = request.translate(false, &tgi::Limits::default())?;
        api::check(request, &limits(), FRESH_SEED)?.encode(&limits(), |_, _| unreachable!("there is no text"))
    };
    assert_eq!(with(Inputs::Ids(vec![5, 6, 7])).unwrap().prompt, [6, 7]);
    let error = with(Inputs::Ids(vec![1_000, 1, 1])).unwrap_err();
    assert_eq!(message(&error), "`input_ids` must be < 1000. Given: 1000 at index 0");
    assert_eq!(with(Inputs::Ids(vec![])), Err(Violation::EmptyPrompt));

    assert_eq!(Inputs::either("a".into(), vec![]), Ok(Inputs::Text("a".into())));
    assert_eq!(Inputs::either(String::new(), vec![1]), Ok(Inputs::Ids(vec![1])));
    assert_eq!(Inputs::either(String::new(), vec![]), Ok(Inputs::Text(String::new())));
    let both = Inputs::either("a".into(), vec![1]).unwrap_err();
    assert_eq!((field(&both), &*message(&both)), ("input_ids", "`inputs` and `input_ids` must not both be set"));
}

#[test]
fn what_draws() {
    let draws = |parameters: Value| check("a", parameters, false).unwrap().seed(0);
    for parameters in [
        json!({"do_sample": true}),
        json!({"temperature": 0.9}),
        json!({"top_k": 50}),
        json!({"top_p": 0.9}),
        json!({"typical_p": 0.9}),
    ] {
        assert_eq!(draws(parameters), Some(FRESH_SEED));
    }
    assert_eq!(draws(json!({"do_sample": true, "seed": 5})), Some(5));
    // A seed, penalties or a temperature of 1 do not make tokens be drawn, though the last one passes for sampling.
    assert_eq!(draws(json!({"seed": 5, "repetition_penalty": 1.3, "watermark": true})), None);
    assert_eq!(draws(json!({"temperature": 1.0, "best_of": 2})), None);

    let valid = check("a", json!({"best_of": 2, "top_k": 3, "temperature": 0.5, "watermark": true}), false).unwrap();
    let expected = SamplingSettings {
        choice: Choice::Draw { seed: FRESH_SEED, index: 1 },
        temperature: 0.5,
        top_k: Some(3),
        watermark: true,
        ..SamplingSettings::default()
    };
    assert_eq!((valid.sampling(1).settings(), valid.seed(1)), (&expected, Some(FRESH_SEED + 1)));
}

#[test]
fn the_payload_of_the_notebook() {
    let payload = json!({
        "inputs": "Write a poem", "stream": true, "model": "ignored",
        "parameters": {
            "do_sample": true, "max_new_tokens": 20, "repetition_penalty": 1.03, "return_full_text": false,
            "stop": ["<|endoftext|>", "</s>"], "seed": 9, "temperature": 0.8, "top_k": 10, "top_p": 0.9, "truncate": null,
            "typical_p": 0.95, "best_of": 1, "watermark": false, "details": true, "decoder_input_details": false,
            "no_repeat_ngram_size": 3, "num_beams": 2, "top_n_tokens": null, "max_time": 3.5,
        },
    });
    let request: GenerateRequest = serde_json::from_value(payload).unwrap();
    assert!(request.stream);
    let valid = validate(request, true, &limits()).unwrap();
    assert_eq!(valid.stop, ["<|endoftext|>", "</s>"]);
    assert_eq!(valid.seed(0), Some(9));
    let settings = valid.sampling(0).settings().clone();
    assert_eq!((settings.temperature, settings.top_k, settings.top_p), (0.8, Some(10), Some(0.9)));
    assert_eq!((settings.typical_p, settings.repetition_penalty), (Some(0.95), 1.03));
}

#[test]
fn null_is_for_optional_fields_alone() {
    let optional = [
        "best_of",
        "temperature",
        "repetition_penalty",
        "frequency_penalty",
        "top_k",
        "top_p",
        "typical_p",
        "truncate",
        "max_new_tokens",
        "return_full_text",
        "seed",
        "top_n_tokens",
        "grammar",
    ];
    let parse =
        |parameters: Value| serde_json::from_value::<GenerateRequest>(json!({"inputs": "a", "parameters": parameters}));
    for field in optional {
        assert!(parse(json!({field: null})).is_ok(), "{field}");
    }
    for field in ["do_sample", "stop", "watermark", "details", "decoder_input_details", "ignore_eos"] {
        assert!(parse(json!({field: null})).is_err(), "{field}");
    }
    assert!(parse(json!(null)).is_err());
    assert!(parse(json!({"max_new_tokens": -1})).is_err());
    let missing = serde_json::from_value::<GenerateRequest>(json!({"parameters": {}})).unwrap_err();
    assert_eq!(missing.to_string(), "missing field `inputs`");
}
