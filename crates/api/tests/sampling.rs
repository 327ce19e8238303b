//! What a request says of sampling and of its end, from the fields to the model's parameters.

use api::{Field, Limits, Prompt, Request, TokenBias, Violation};
use step::ParamError;

fn limits() -> Limits {
    Limits { max_total_tokens: 30, ..Limits::of_model(2048, 1_000, 8) }
}

fn check(change: impl FnOnce(&mut Request)) -> Result<api::ValidRequest, Violation> {
    let mut request = Request::new(Prompt::Ids(vec![1; 10]));
    change(&mut request);
    api::check(request, &limits(), 7)?.encode(&limits(), |_, _| unreachable!("ids are not encoded"))
}

#[test]
fn each_parameter_comes_through() {
    let bias = TokenBias { id: 999, bias: -3.0 };
    let valid = check(|request| {
        let sampling = &mut request.sampling;
        (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) = (Some(0.25), Some(1.5), Some(-0.5));
        (sampling.logit_bias, sampling.top_p) = (vec![bias], Some(1.0));
        (request.stop.token_ids, request.stop.min_tokens) = (vec![5, 70_000], 20);
    });
    let valid = valid.unwrap();
    assert_eq!((valid.stop_token_ids.as_slice(), valid.min_tokens, valid.max_tokens), (&[5, 70_000][..], 20, 20));
    let params = valid.sampling(0);
    let settings = params.settings();
    assert_eq!((settings.min_p, settings.presence_penalty, settings.frequency_penalty), (0.25, 1.5, -0.5));
    assert_eq!((settings.logit_bias.as_deref(), settings.top_p), (Some(&[bias][..]), None));
    assert_eq!(check(|_| ()).unwrap().sampling(0), step::SamplingParams::GREEDY);
}

#[test]
fn each_limit_is_named() {
    let broken = |change: fn(&mut Request)| {
        let violation = check(change).unwrap_err();
        (violation.field(), violation.to_string())
    };
    let said = |field, text: &str| (field, text.to_owned());
    let found = broken(|request| request.sampling.min_p = Some(1.5));
    assert_eq!(found, said(Field::MinP, "`min_p` must be >= 0.0 and <= 1.0"));
    let found = broken(|request| request.sampling.presence_penalty = Some(3.0));
    assert_eq!(found, said(Field::PresencePenalty, "`presence_penalty` must be >= -2.0 and <= 2.0"));
    let found = broken(|request| request.sampling.frequency_penalty = Some(f32::NAN));
    assert_eq!(found, said(Field::FrequencyPenalty, "`frequency_penalty` must be >= -2.0 and <= 2.0"));
    let found = broken(|request| request.sampling.logit_bias = vec![TokenBias { id: 1_000, bias: 1.0 }]);
    let text = "`logit_bias` has the token 1000, but the model's vocabulary has 1000 tokens";
    assert_eq!(found, said(Field::LogitBias, text));
    let found = broken(|request| request.sampling.logit_bias = vec![TokenBias { id: 3, bias: 101.0 }]);
    assert_eq!(found, said(Field::LogitBias, "`logit_bias` must be >= -100.0 and <= 100.0. Token 3 is not"));
    let found = broken(|request| request.stop.token_ids = vec![0; 129]);
    assert_eq!(found, said(Field::StopTokenIds, "`stop_token_ids` must be at most 128. Given: 129"));
    let found = broken(|request| (request.max_tokens, request.stop.min_tokens) = (Some(8), 9));
    assert_eq!(found, said(Field::MinTokens, "`min_tokens` must be at most 8. Given: 9"));
    let found = broken(|request| request.sampling.relative_frequency_penalty = Some(f32::INFINITY));
    assert_eq!(found.0, Field::RelativeFrequencyPenalty);
    let violation = check(|request| request.sampling.top_p = Some(1.5)).unwrap_err();
    assert_eq!(violation, Violation::Sampling(ParamError::TopP));
}
