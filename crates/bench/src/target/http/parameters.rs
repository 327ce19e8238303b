//! What the bodies of several dialects have in common.

use super::TargetError;
use crate::dataset::{Prompt, Request};
use serde_json::{Value, json};

/// OpenAI's body, but for the prompt.
pub(super) fn openai(request: &Request, model: &str, stream: bool) -> Value {
    let mut body = json!({
        "model": model,
        "max_tokens": request.parameters.max_new_tokens,
        "temperature": 0.0, // its default is 1, where TGI's is greedy
        "stream": stream,
    });
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    put_optional(&mut body, request);
    body
}

/// What OpenAI and TGI have under the same names.
pub(super) fn put_optional(body: &mut Value, request: &Request) {
    let parameters = &request.parameters;
    let optional = [
        ("temperature", parameters.temperature.map(|x| json!(x))),
        ("top_p", parameters.top_p.map(|x| json!(x))),
        ("seed", parameters.seed.map(|x| json!(x))),
        ("stop", (!parameters.stop.is_empty()).then(|| json!(parameters.stop))),
        // An extension, also of vLLM; TGI ignores keys that it does not know.
        ("ignore_eos", request.ignore_eos.then_some(Value::Bool(true))),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            body[key] = value;
        }
    }
}

pub(super) fn text(request: &Request) -> Result<&str, TargetError> {
    match &request.prompt {
        Prompt::Text(text) => Ok(text),
        Prompt::Ids(_) => Err(TargetError::Unexpected("token ids cannot be sent over HTTP".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Parameters;

    #[test]
    fn bodies_name_what_was_set() {
        let parameters = Parameters { max_new_tokens: 3, ..Parameters::default() };
        let prompt = Prompt::Text("a".to_owned());
        let mut request = Request { prompt, parameters, ignore_eos: false, cancel_after: None };
        let whole = json!({"model": "m", "max_tokens": 3, "temperature": 0.0, "stream": false});
        assert_eq!(openai(&request, "m", false), whole);
        request.ignore_eos = true;
        let stream = openai(&request, "m", true);
        assert_eq!((&stream["ignore_eos"], &stream["stream_options"]["include_usage"]), (&json!(true), &json!(true)));
    }
}
