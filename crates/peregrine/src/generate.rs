//! `peregrine generate`.

use crate::engine_args::{EngineArgs, ranks};
use crate::input::read_stdin;
use crate::log::say;
use crate::output::print;
use crate::parameters::ParameterArgs;
use crate::signals::Signals;
use crate::threads::start_runtime;
use crate::{client, progress};
use anyhow::{Result, anyhow, bail};
use api::Priority;
use clap::Args;
use coordinator::{Coordinator, Status};
use runtime::Engine;
use server::dialects::grpc::convert::{request_to_pb, response_from_pb};
use server::dialects::tgi::{GenerateRequest, Inputs};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use tonic::Request;
use tonic::transport::Channel;
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

/// Arguments of `peregrine generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// The prompt. Read from standard input, without the last newline, if it is "-" or not given.
    prompt: Option<String>,
    /// The prompt as token ids.
    #[arg(long, value_delimiter = ',', value_name = "IDS", conflicts_with = "prompt")]
    input_ids: Option<Vec<u32>>,
    /// A server to ask, as HOST:PORT, http:// or https://, instead of workers started for this call.
    #[arg(long, value_name = "ADDR", conflicts_with_all = EngineArgs::ids(), conflicts_with = "tensor_parallel")]
    server: Option<String>,
    /// File of certificates in PEM: the authorities that are trusted to know the server, in place of the system's.
    #[arg(long, value_name = "FILE", requires = "server")]
    ca: Option<PathBuf>,
    /// File whose first key is sent to the server.
    #[arg(long, value_name = "FILE", requires = "server")]
    api_key_file: Option<PathBuf>,
    /// Print the whole answer as the JSON object of TGI's /generate, and nothing else.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    parameters: ParameterArgs,
    #[command(flatten)]
    engine: EngineArgs,
    /// Workers over which the model is sharded.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = ranks())]
    tensor_parallel: u32,
}

/// Generates once.
pub fn run(args: GenerateArgs) -> Result<ExitCode> {
    start_runtime()?.block_on(generate(args))
}

async fn generate(args: GenerateArgs) -> Result<ExitCode> {
    let GenerateArgs { prompt, input_ids, server, ca, api_key_file, json, parameters, engine, tensor_parallel } = args;
    let inputs = match input_ids {
        Some(ids) => Inputs::Ids(ids),
        None => Inputs::Text(read_prompt(prompt)?),
    };
    let parameters = parameters.into();
    let request = request_to_pb(GenerateRequest { inputs, parameters, stream: false, priority: Priority::Normal });
    let mut request = Request::new(request);
    if let Some(addr) = server {
        if let Some(file) = api_key_file {
            client::show_key(&mut request, file)?;
        }
        answer(client::connect(&addr, ca.as_deref()).await?, request, json).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut signals = Signals::new()?;
    let Engine { coordinator, service } = Engine::start(&engine.options()?, tensor_parallel)?;
    let result = tokio::select! {
        result = answer_embedded(&coordinator, service, request, json) => result.map(|()| ExitCode::SUCCESS),
        code = signals.next() => Ok(ExitCode::from(code)),
    };
    coordinator.stop();
    coordinator.ended().await;
    result
}

/// The prompt as given, or all of standard input.
fn read_prompt(prompt: Option<String>) -> Result<String> {
    match prompt {
        Some(prompt) if prompt != "-" => Ok(prompt),
        None if std::io::stdin().is_terminal() => bail!("give a PROMPT, --input-ids, or a prompt on standard input"),
        _ => read_stdin(),
    }
}

async fn answer_embedded(
    coordinator: &Coordinator,
    service: server::Service,
    request: Request<pb::GenerateRequest>,
    json: bool,
) -> Result<()> {
    progress::show(coordinator.status()).await;
    if let Status::Failed { reason } = &*coordinator.status().borrow() {
        bail!("{reason}");
    }
    answer(client::embed(service).await?, request, json).await
}

async fn answer(client: GenerationClient<Channel>, request: Request<pb::GenerateRequest>, json: bool) -> Result<()> {
    if json { print_json(client, request).await } else { print_stream(client, request).await }
}

async fn print_json(mut client: GenerationClient<Channel>, request: Request<pb::GenerateRequest>) -> Result<()> {
    let response = client.generate(request).await.map_err(|status| status_error(&status))?.into_inner();
    print(&(serde_json::to_string(&response_from_pb(response)?)? + "\n"))
}

/// Prints the text as it comes, then says on standard error how fast it came.
async fn print_stream(mut client: GenerationClient<Channel>, request: Request<pb::GenerateRequest>) -> Result<()> {
    let begin = Instant::now();
    let asked = request.get_ref();
    let with_prompt = asked.parameters.as_ref().is_some_and(|parameters| parameters.return_full_text());
    let mut shown = if with_prompt { asked.inputs.clone() } else { String::new() };
    // What token ids say as a text is not known here before the end.
    let hold = with_prompt && asked.inputs.is_empty();
    print(&shown)?;
    let mut stream = client.generate_stream(request).await.map_err(|status| status_error(&status))?.into_inner();
    let (mut tokens, mut first) = (0, None);
    while let Some(message) = stream.message().await.map_err(|status| status_error(&status))? {
        first.get_or_insert_with(|| (begin.elapsed(), message.tokens.len()));
        tokens += message.tokens.len();
        let of_tokens = || message.tokens.iter().filter(|token| !token.special).map(|token| &*token.text).collect();
        let text: String = match &message.generated_text {
            // The last message has the whole text, which may end within its last token. It does not begin with what was
            // shown where a special token came within a character.
            Some(whole) => whole.strip_prefix(&*shown).map_or_else(of_tokens, str::to_owned),
            None if hold => String::new(),
            None => of_tokens(),
        };
        shown += &text;
        print(&text)?;
    }
    print("\n")?;
    let (first_after, first_tokens) = first.ok_or_else(|| anyhow!("the stream ended without a token"))?;
    let mut speed = format!("{tokens} tokens, the first after {:.0} ms", first_after.as_secs_f64() * 1e3);
    if tokens > first_tokens {
        let seconds = (begin.elapsed() - first_after).as_secs_f64();
        speed += &format!(", then {:.1} tokens/s", (tokens - first_tokens) as f64 / seconds);
    }
    say(&speed);
    Ok(())
}

fn status_error(status: &tonic::Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}
