//! `peregrine watermark-detect`: whether a text carries the watermark.

use crate::hub_args::HubArgs;
use crate::input::read_stdin;
use crate::output::print;
use anyhow::{Context, Result, bail};
use clap::Args;
use runtime::demo;
use sampling::watermark::{Detection, detect};
use std::path::{Path, PathBuf};
use text::Tokenizer;

/// From this z-score on, the paper of the watermark takes a text for marked: 1 unmarked text in 30,000 reaches it.
const Z_SCORE_MARKED: f64 = 4.0;

/// The text, and the model that may have written it.
#[derive(Args, Clone, Debug)]
pub struct WatermarkDetectArgs {
    /// The model: a folder with config.json and tokenizer.json, ORG/NAME[@REVISION] of the Hugging Face hub, or a JumpStart id; the
    /// demo model if not given.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    /// The text; read from the standard input if it is not given or "-".
    #[arg(conflicts_with = "input_ids")]
    text: Option<String>,
    /// Token ids instead of a text, with commas between them.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    input_ids: Option<Vec<u32>>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what was found.
pub fn run(args: &WatermarkDetectArgs) -> Result<()> {
    let dir = match &args.model {
        Some(model) => args.hub.description(model)?,
        None => demo::model_dir()?,
    };
    let found = detect_in(&tokens(args, &dir)?, &dir)?;
    print(&if args.json { json(&found) } else { text(&found) })
}

fn tokens(args: &WatermarkDetectArgs, dir: &Path) -> Result<Vec<u32>> {
    if let Some(ids) = &args.input_ids {
        return Ok(ids.clone());
    }
    let text = match args.text.as_deref() {
        None | Some("-") => read_stdin()?,
        Some(text) => text.to_owned(),
    };
    Ok(Tokenizer::open(dir)?.encode(&text)?)
}

/// Looks for the watermark of the model in the folder `dir`, whose vocabulary decides what is green.
fn detect_in(tokens: &[u32], dir: &Path) -> Result<Detection> {
    let vocab = weights::read_config(dir)?.vocab;
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
        bail!("token {token} is outside of the model's vocabulary of {vocab}");
    }
    Ok(detect(tokens, u32::try_from(vocab).context("the vocabulary is too large")?))
}

fn json(found: &Detection) -> String {
    let Detection { scored, green, z_score, p_value } = *found;
    serde_json::json!({ "scored": scored, "green": green, "z_score": z_score, "p_value": p_value }).to_string() + "\n"
}

fn text(found: &Detection) -> String {
    let Detection { scored, green, z_score, p_value } = *found;
    let verdict = if scored == 0 {
        "nothing to score: a text must have at least two tokens"
    } else if z_score >= Z_SCORE_MARKED {
        "far more green than chance explains, as text with this watermark has"
    } else {
        "no evidence of the watermark; a text that is short, edited or of another model may show none"
    };
    format!(
        "scored   {scored} different pairs of neighbouring tokens\n\
         green    {green}, where unmarked text has about half\n\
         z-score  {z_score:.2}\n\
         p-value  {p_value:.2e}\n\
         verdict  {verdict}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampling::watermark::is_green;

    const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/tiny-falcon-7b");

    fn args() -> WatermarkDetectArgs {
        WatermarkDetectArgs { model: None, hub: HubArgs::default(), text: None, input_ids: None, json: false }
    }

    /// 100 tokens, each the smallest green or else the smallest other one that was not there before.
    fn chain(vocab: u32, green: bool) -> Vec<u32> {
        let mut tokens = vec![7];
        while tokens.len() < 100 {
            let previous = tokens[tokens.len() - 1];
            let next = (0..vocab).find(|&id| is_green(previous, id, vocab) == green && !tokens.contains(&id));
            tokens.push(next.unwrap());
        }
        tokens
    }

    #[test]
    fn marked_and_unmarked_tokens() {
        let dir = Path::new(MODEL);
        let vocab = weights::read_config(dir).unwrap().vocab as u32;
        let marked = detect_in(&chain(vocab, true), dir).unwrap();
        assert_eq!((marked.scored, marked.green), (99, 99));
        assert!(text(&marked).contains("z-score  9.95\n") && text(&marked).contains("more green than chance"));

        let unmarked = detect_in(&chain(vocab, false), dir).unwrap();
        assert_eq!((unmarked.scored, unmarked.green), (99, 0));
        assert!(text(&unmarked).contains("no evidence of the watermark"));
        assert!(text(&detect_in(&[7], dir).unwrap()).contains("nothing to score"));
    }

    #[test]
    fn json_has_the_four_figures() {
        let found = Detection { scored: 4, green: 3, z_score: 1.0, p_value: 0.25 };
        let value: serde_json::Value = serde_json::from_str(&json(&found)).unwrap();
        assert_eq!(value, serde_json::json!({ "scored": 4, "green": 3, "z_score": 1.0, "p_value": 0.25 }));
    }

    #[test]
    fn a_text_is_tokenized_with_the_models_tokenizer() {
        let dir = Path::new(MODEL);
        let given = |text: &str| tokens(&WatermarkDetectArgs { text: Some(text.to_owned()), ..args() }, dir).unwrap();
        let expected = Tokenizer::open(dir).unwrap().encode("Once upon a time").unwrap();
        assert_eq!(given("Once upon a time"), expected);
        assert_eq!(tokens(&WatermarkDetectArgs { input_ids: Some(vec![1, 2]), ..args() }, dir).unwrap(), [1, 2]);
    }

    #[test]
    fn tokens_must_be_of_the_vocabulary() {
        let found = format!("{:#}", detect_in(&[1, 70_000], Path::new(MODEL)).unwrap_err());
        assert!(found.starts_with("token 70000 is outside of the model's vocabulary of "), "{found}");
    }
}
