//! The parameters of a request, each as a flag. `chat` makes its commands of them.

use clap::Args;
use server::dialects::tgi::Parameters;

/// The parameters that change what is generated. Ranges are checked where all requests are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Parameters")]
pub struct ParameterArgs {
    /// Tokens to generate, at most. [default: 20; of a chat: as many as there is room for]
    #[arg(long, value_name = "N", alias = "max-tokens")]
    max_new_tokens: Option<u32>,
    /// Sample, even if no other parameter asks for it.
    #[arg(long)]
    do_sample: bool,
    /// Divides the logits; above 0.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Sample from the N most probable tokens.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    top_k: Option<i32>,
    /// Sample from the most probable tokens that together have probability P; between 0 and 1.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Sample from the most typical tokens that together have probability P; between 0 and 1.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    typical_p: Option<f32>,
    /// Divides positive logits of tokens seen before, and multiplies negative ones.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f32>,
    /// Subtracted from a token's logit, times its share of all tokens so far.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Seed of the random numbers: the same seed gives the same tokens.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A stop string: it ends the answer. May be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Use only the last N tokens of the prompt.
    #[arg(long, value_name = "N")]
    truncate: Option<usize>,
    /// Watermark the text.
    #[arg(long)]
    watermark: bool,
    /// Go on after an end-of-text token.
    #[arg(long)]
    ignore_eos: bool,
    /// Sample from tokens at least P times as probable as the most probable one; from 0 to 1.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Subtracted from the logits of tokens that have been generated; from -2 to 2.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Subtracted from a token's logit each time that it was generated; from -2 to 2.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    count_frequency_penalty: Option<f32>,
    /// Added to a token's logit; from -100 to 100. May be given several times.
    #[arg(long, value_name = "ID=X", value_parser = bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,
    /// End no text before N tokens.
    #[arg(long, value_name = "N")]
    min_tokens: Option<u32>,
    /// Tokens that end the answer.
    #[arg(long, value_delimiter = ',', value_name = "IDS")]
    stop_token_ids: Vec<u32>,
}

/// The parameters that change what an answer holds.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Parameters")]
pub struct WholeArgs {
    /// Generate N answers, and return the most probable; only with --json.
    #[arg(long, value_name = "N", requires = "json")]
    best_of: Option<usize>,
    /// Put the prompt before the generated text.
    #[arg(long)]
    return_full_text: bool,
    /// Return tokens, log-probabilities and the finish reason; only with --json.
    #[arg(long, requires = "json")]
    details: bool,
    /// Return the log-probabilities of the prompt, too; only with --json.
    #[arg(long, requires = "json")]
    decoder_input_details: bool,
    /// Return the N most probable tokens at each position; only with --json.
    #[arg(long, value_name = "N", requires = "json")]
    top_n_tokens: Option<u32>,
}

impl WholeArgs {
    /// `parameters`, with these.
    pub fn add_to(self, parameters: Parameters) -> Parameters {
        Parameters {
            best_of: self.best_of,
            return_full_text: self.return_full_text.then_some(true),
            details: self.details,
            decoder_input_details: self.decoder_input_details,
            top_n_tokens: self.top_n_tokens,
            ..parameters
        }
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected a token id, =, and a number".to_owned())
}

impl From<ParameterArgs> for Parameters {
    fn from(args: ParameterArgs) -> Self {
        Self {
            temperature: args.temperature,
            repetition_penalty: args.repetition_penalty,
            frequency_penalty: args.frequency_penalty,
            top_k: args.top_k,
            top_p: args.top_p,
            typical_p: args.typical_p,
            do_sample: args.do_sample,
            max_new_tokens: args.max_new_tokens,
            stop: args.stop,
            truncate: args.truncate,
            watermark: args.watermark,
            seed: args.seed,
            ignore_eos: args.ignore_eos,
            min_p: args.min_p,
            presence_penalty: args.presence_penalty,
            count_frequency_penalty: args.count_frequency_penalty,
            logit_bias: args.logit_bias.into_iter().collect(),
            min_tokens: args.min_tokens,
            stop_token_ids: args.stop_token_ids,
            ..Self::default()
        }
    }
}
