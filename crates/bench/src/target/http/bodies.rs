//! The bodies of requests.

use super::TargetError;
use crate::dataset::{Prompt, Request};
use serde_json::{Value, json};

/// Of TGI's routes.
pub(super) fn generate(request: &Request) -> Result<Value, TargetError> {
    let parameters = &request.parameters;
    let mut body = json!({"max_new_tokens": parameters.max_new_tokens, "details": true});
    put_optional(&mut body, request);
    Ok(json!({"inputs": text(request)?, "parameters": body}))
}

/// Of OpenAI's /v1/completions.
pub(super) fn completions(request: &Request, model: &str, stream: bool) -> Result<Value, TargetError> {
    let parameters = &request.parameters;
    let mut body = json!({
        "model": model,
        "prompt": text(request)?,
        "max_tokens": parameters.max_new_tokens,
        "temperature": 0.0, // its default is 1, where TGI's is greedy
        "stream": stream,
    });
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    put_optional(&mut body, request);
    Ok(body)
}

/// What both dialects have under the same names.
fn put_optional(body: &mut Value, request: &Request) {
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

fn text(request: &Request) -> Result<&str, TargetError> {
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
        let parameters = Parameters { max_new_tokens: 3, temperature: Some(0.5), ..Parameters::default() };
        let prompt = Prompt::Text("a".to_owned());
        let mut request = Request { prompt, parameters, ignore_eos: true, cancel_after: None };
        let of_tgi = json!({"max_new_tokens": 3, "details": true, "temperature": 0.5, "ignore_eos": true});
        assert_eq!(generate(&request).expect("text"), json!({"inputs": "a", "parameters": of_tgi}));
        request.parameters.temperature = None;
        request.ignore_eos = false;
        let of_openai = json!({"model": "m", "prompt": "a", "max_tokens": 3, "temperature": 0.0, "stream": false});
        assert_eq!(completions(&request, "m", false).expect("text"), of_openai);
    }
}
