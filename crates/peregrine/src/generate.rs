//! `peregrine generate`.

use crate::client::Client;
use crate::endpoint::EndpointArgs;
use crate::input::read_stdin;
use crate::log::say;
use crate::output::print;
use crate::parameters::{ParameterArgs, WholeArgs};
use crate::signals::Signals;
use crate::stream::{Printer, status_error};
use crate::threads::start_runtime;
use anyhow::{Result, bail};
use api::Priority;
use clap::Args;
use server::dialects::grpc::convert::{request_to_pb, response_from_pb};
use server::dialects::tgi::{GenerateRequest, Inputs};
use std::io::IsTerminal;
use std::process::ExitCode;
use wire::generation as pb;

/// Arguments of `peregrine generate`.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// The prompt. Read from standard input, without the last newline, if it is "-" or not given.
    prompt: Option<String>,
    /// The prompt as token ids.
    #[arg(long, value_delimiter = ',', value_name = "IDS", conflicts_with = "prompt")]
    input_ids: Option<Vec<u32>>,
    /// Print the whole answer as the JSON object of TGI's /generate, and nothing else.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    parameters: ParameterArgs,
    #[command(flatten)]
    whole: WholeArgs,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// Generates once.
pub fn run(args: GenerateArgs) -> Result<ExitCode> {
    start_runtime()?.block_on(generate(args))
}

async fn generate(args: GenerateArgs) -> Result<ExitCode> {
    let GenerateArgs { prompt, input_ids, json, parameters, whole, endpoint } = args;
    let inputs = match input_ids {
        Some(ids) => Inputs::Ids(ids),
        None => Inputs::Text(read_prompt(prompt)?),
    };
    let parameters = whole.add_to(parameters.into());
    let request = request_to_pb(GenerateRequest { inputs, parameters, stream: false, priority: Priority::Normal });
    let work = async |client, signals: &mut Signals| {
        tokio::select! {
            result = answer(client, request, json) => result.map(|()| ExitCode::SUCCESS),
            code = signals.next() => Ok(ExitCode::from(code)),
        }
    };
    endpoint.with_client(work).await
}

/// The prompt as given, or all of standard input.
fn read_prompt(prompt: Option<String>) -> Result<String> {
    match prompt {
        Some(prompt) if prompt != "-" => Ok(prompt),
        None if std::io::stdin().is_terminal() => bail!("give a PROMPT, --input-ids, or a prompt on standard input"),
        _ => read_stdin(),
    }
}

async fn answer(client: Client, request: pb::GenerateRequest, json: bool) -> Result<()> {
    if json { print_json(client, request).await } else { print_stream(client, request).await }
}

async fn print_json(mut client: Client, request: pb::GenerateRequest) -> Result<()> {
    let response = client.generate(request).await.map_err(|status| status_error(&status))?.into_inner();
    print(&(serde_json::to_string(&response_from_pb(response)?)? + "\n"))
}

/// Prints the text as it comes, then says on standard error how fast it came.
async fn print_stream(mut client: Client, request: pb::GenerateRequest) -> Result<()> {
    let mut printer = Printer::new(&[]);
    if request.parameters.as_ref().is_some_and(|parameters| parameters.return_full_text()) {
        // What token ids say as a text is not known here before the end.
        printer = printer.behind(&request.inputs);
        print(&request.inputs)?;
    }
    let speed = printer.print(client.generate_stream(request)).await?;
    print("\n")?;
    say(&speed);
    Ok(())
}
