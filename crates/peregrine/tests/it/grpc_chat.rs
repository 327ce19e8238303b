//! Conversations over gRPC, and the parameters that TGI lacks.

use crate::support::{Server, greedy, ids, within};
use std::collections::HashSet;
use tonic::Code;
use tonic_types::StatusExt;
use wire::generation as pb;

fn message(role: &str, content: &str) -> pb::ChatMessage {
    pb::ChatMessage { role: role.to_owned(), content: content.to_owned(), extra: String::new() }
}

/// The demo model's template writes Falcon's own format.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_conversation_is_a_prompt_in_the_models_format() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let client = server.client().await;
    let parameters = pb::Parameters { max_new_tokens: Some(24), details: Some(true), ..Default::default() };
    let messages = vec![message("system", "Tell a story."), message("user", "Once upon a time?")];
    let chat = pb::ChatRequest { messages, parameters: Some(parameters.clone()), ..Default::default() };
    let answer = within("an answer", client.generation().chat(chat.clone())).await.expect("an answer").into_inner();

    let mut plain = greedy("System: Tell a story.\nUser: Once upon a time?\nFalcon:", 24);
    plain.parameters = Some(pb::Parameters { stop: vec!["\nUser:".to_owned()], ..parameters });
    let plain = client.generate(plain).await;
    let (details, expected) = (answer.details.expect("asked for"), plain.details.expect("asked for"));
    assert_eq!((ids(&details.tokens), details.prompt_tokens), (ids(&expected.tokens), expected.prompt_tokens));

    let mut stream =
        within("a stream", client.generation().chat_stream(chat.clone())).await.expect("begins").into_inner();
    let (mut tokens, mut text) = (Vec::new(), None);
    while let Some(message) = within("a message", stream.message()).await.expect("goes on") {
        tokens.extend(ids(&message.tokens));
        text = message.generated_text;
    }
    assert_eq!((tokens, text.as_ref()), (ids(&details.tokens), Some(&answer.generated_text)));

    let with = |change: fn(&mut pb::ChatRequest)| {
        let mut request = chat.clone();
        change(&mut request);
        let mut stub = client.generation();
        async move { within("an answer", stub.chat(request)).await.map(tonic::Response::into_inner) }
    };
    for (change, field) in [
        ((|request| request.messages.clear()) as fn(&mut pb::ChatRequest), "messages"),
        (|request| request.tools = "{".to_owned(), "tools"),
        (|request| request.template_arguments = "[]".to_owned(), "template_arguments"),
        (|request| request.messages[1].extra = "7".to_owned(), "messages[1].extra"),
        (|request| request.parameters.as_mut().unwrap().temperature = Some(0.0), "temperature"),
    ] {
        let status = with(change).await.expect_err(field);
        let violations = status.get_details_bad_request().expect("details").field_violations;
        assert_eq!((status.code(), &*violations[0].field), (Code::InvalidArgument, field), "{status:?}");
    }
    // Without a limit an answer has as many tokens as there is room for, or the model ends it.
    let whole = with(|request| request.parameters.as_mut().unwrap().max_new_tokens = None).await.expect("an answer");
    assert!(whole.details.expect("asked for").generated_tokens > 24);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn parameters_that_tgi_lacks() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let client = server.client().await;
    let greedily = async |change: fn(&mut pb::Parameters)| {
        let mut request = greedy("Once upon a time", 12);
        change(request.parameters.get_or_insert_default());
        client.generate(request).await.details.expect("asked for")
    };
    let plain = ids(&greedily(|_| {}).await.tokens);

    let fifth = plain[4];
    let mut request = greedy("Once upon a time", 12);
    request.parameters.get_or_insert_default().stop_token_ids = vec![fifth];
    let stopped = client.generate(request.clone()).await.details.expect("asked for");
    let at = plain.iter().position(|&id| id == fifth).expect("it is there");
    assert_eq!((ids(&stopped.tokens), &*stopped.finish_reason), (plain[..=at].to_vec(), "stop_sequence"));
    request.parameters.get_or_insert_default().min_tokens = Some(12);
    let later = client.generate(request.clone()).await.details.expect("asked for");
    assert_eq!((later.tokens.len(), ids(&later.tokens).contains(&fifth)), (12, false));

    request = greedy("Once upon a time", 12);
    request.parameters.get_or_insert_default().logit_bias = [(fifth, -100.0), (plain[0], 100.0)].into();
    let biased = client.generate(request).await.details.expect("asked for");
    assert!(biased.tokens.iter().all(|token| token.id == plain[0]), "{biased:?}");
    // With a penalty for each time that they came, more different tokens come.
    let long = greedily(|parameters| parameters.max_new_tokens = Some(150)).await;
    let penalized = greedily(|parameters| {
        parameters.max_new_tokens = Some(150);
        parameters.count_frequency_penalty = Some(2.0);
        parameters.presence_penalty = Some(2.0);
    });
    let distinct = |details: pb::Details| ids(&details.tokens).into_iter().collect::<HashSet<u32>>().len();
    assert!(distinct(penalized.await) > distinct(long));
    assert!(greedily(|parameters| parameters.min_p = Some(1.0)).await.seed.is_some(), "it draws");
    server.stop().await;
}
