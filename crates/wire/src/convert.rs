//! Steps on the wire.

use crate::control as pb;
use step::{
    BlockId, Choice, Command, NewSequence, ParamError, Sample, SampleMask, SamplingParams, SamplingSettings,
    ScoredToken, SeqId, SeqOutput, SeqRun, StepId, StepPlan, StepResult, TokenBias, TokenScore,
};

/// Why a message is not what it should be. Coordinator and workers are of one build, so this is a bug or a broken peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum ConvertError {
    /// A message lacks a part.
    #[error("{message} without `{field}`")]
    Missing { message: &'static str, field: &'static str },
    /// A sequence's prompt is not the beginning of its tokens.
    #[error("sequence {seq}: a prompt of {prompt_len} tokens, expected 1 to {tokens}")]
    PromptLen {
        seq: u64,
        prompt_len: u32,
        /// Tokens of the sequence, the prompt's and those that followed.
        tokens: usize,
    },
    /// A sampling setting is out of its range.
    #[error("sequence {seq}: {error}")]
    Sampling { seq: u64, error: ParamError },
}

/// A plan, as a command.
#[must_use]
pub fn plan_to_wire(plan: &StepPlan) -> pb::WorkerCommand {
    let plan = pb::StepPlan {
        step: plan.step.0,
        new: plan.new.iter().map(new_to_wire).collect(),
        retired: plan.retired.iter().map(|seq| seq.0).collect(),
        runs: plan.runs.iter().map(run_to_wire).collect(),
    };
    pb::WorkerCommand { command: Some(pb::worker_command::Command::Plan(plan)) }
}

/// A mask, as a command.
#[must_use]
pub fn mask_to_wire(mask: SampleMask) -> pb::WorkerCommand {
    let mask = pb::SampleMask { step: mask.step.0, seq: mask.seq.0, words: mask.words };
    pb::WorkerCommand { command: Some(pb::worker_command::Command::Mask(mask)) }
}

/// A command, checked.
///
/// # Errors
///
/// [`ConvertError`], when a part is missing or out of range.
pub fn command_from_wire(command: pb::WorkerCommand) -> Result<Command, ConvertError> {
    match command.command {
        Some(pb::worker_command::Command::Plan(plan)) => Ok(Command::Plan(StepPlan {
            step: StepId(plan.step),
            new: plan.new.into_iter().map(new_from_wire).collect::<Result<_, _>>()?,
            retired: plan.retired.into_iter().map(SeqId).collect(),
            runs: plan.runs.into_iter().map(run_from_wire).collect(),
        })),
        Some(pb::worker_command::Command::Mask(mask)) => {
            Ok(Command::Mask(SampleMask { step: StepId(mask.step), seq: SeqId(mask.seq), words: mask.words }))
        }
        None => Err(ConvertError::Missing { message: "WorkerCommand", field: "command" }),
    }
}

/// A step's result.
#[must_use]
pub fn result_to_wire(result: StepResult) -> pb::StepResult {
    let StepResult { step, outputs, device_time_us, all_reduce_time_us } = result;
    let outputs = outputs.into_iter().map(|output| pb::SeqOutput {
        seq: output.seq.0,
        samples: output.samples.into_iter().map(sample_to_wire).collect(),
        prompt_logprobs: output.prompt_logprobs,
    });
    pb::StepResult { step: step.0, outputs: outputs.collect(), device_time_us, all_reduce_time_us }
}

/// A step's result, checked.
///
/// # Errors
///
/// [`ConvertError`], when a part is missing.
pub fn result_from_wire(result: pb::StepResult) -> Result<StepResult, ConvertError> {
    let outputs = result.outputs.into_iter().map(|output| {
        Ok(SeqOutput {
            seq: SeqId(output.seq),
            samples: output.samples.into_iter().map(sample_from_wire).collect::<Result<_, _>>()?,
            prompt_logprobs: output.prompt_logprobs,
        })
    });
    Ok(StepResult {
        step: StepId(result.step),
        outputs: outputs.collect::<Result<_, _>>()?,
        device_time_us: result.device_time_us,
        all_reduce_time_us: result.all_reduce_time_us,
    })
}

/// Sizes within a step are bounded by positions and the vocabulary, far below 2³².
fn narrow(size: usize) -> u32 {
    u32::try_from(size).expect("sizes within a step fit 32 bits")
}

fn new_to_wire(new: &NewSequence) -> pb::NewSequence {
    pb::NewSequence {
        seq: new.seq.0,
        tokens: new.tokens.clone(),
        prompt_len: narrow(new.prompt_len),
        sampling: Some(sampling_to_wire(&new.sampling)),
        prompt_logprobs: new.prompt_logprobs,
        top_n: narrow(new.top_n),
        return_logits: new.return_logits,
        min_tokens: narrow(new.min_tokens),
        ends: new.ends.clone(),
    }
}

fn new_from_wire(new: pb::NewSequence) -> Result<NewSequence, ConvertError> {
    let sampling = new.sampling.ok_or(ConvertError::Missing { message: "NewSequence", field: "sampling" })?;
    if new.tokens.is_empty() {
        return Err(ConvertError::Missing { message: "NewSequence", field: "tokens" });
    }
    let (prompt_len, tokens) = (new.prompt_len, new.tokens.len());
    if !(1..=tokens).contains(&(prompt_len as usize)) {
        return Err(ConvertError::PromptLen { seq: new.seq, prompt_len, tokens });
    }
    Ok(NewSequence {
        seq: SeqId(new.seq),
        tokens: new.tokens,
        prompt_len: new.prompt_len as usize,
        sampling: sampling_from_wire(sampling).map_err(|error| ConvertError::Sampling { seq: new.seq, error })?,
        prompt_logprobs: new.prompt_logprobs,
        top_n: new.top_n as usize,
        return_logits: new.return_logits,
        min_tokens: new.min_tokens as usize,
        ends: new.ends,
    })
}

fn sampling_to_wire(params: &SamplingParams) -> pb::Sampling {
    let settings = params.settings();
    let biases = settings.logit_bias.as_deref().unwrap_or_default();
    pb::Sampling {
        draw: match settings.choice {
            Choice::Greedy => None,
            Choice::Draw { seed, index } => Some(pb::Draw { seed, index }),
        },
        temperature: settings.temperature,
        top_k: settings.top_k,
        top_p: settings.top_p,
        typical_p: settings.typical_p,
        repetition_penalty: settings.repetition_penalty,
        relative_frequency_penalty: settings.relative_frequency_penalty,
        watermark: settings.watermark,
        min_p: settings.min_p,
        presence_penalty: settings.presence_penalty,
        frequency_penalty: settings.frequency_penalty,
        logit_bias: biases.iter().map(|by| pb::TokenBias { id: by.id, bias: by.bias }).collect(),
    }
}

fn sampling_from_wire(sampling: pb::Sampling) -> Result<SamplingParams, ParamError> {
    let biases = sampling.logit_bias.into_iter().map(|by| TokenBias { id: by.id, bias: by.bias });
    SamplingParams::try_new(SamplingSettings {
        choice: match sampling.draw {
            None => Choice::Greedy,
            Some(pb::Draw { seed, index }) => Choice::Draw { seed, index },
        },
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        typical_p: sampling.typical_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        relative_frequency_penalty: sampling.relative_frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: Some(biases.collect()),
        watermark: sampling.watermark,
    })
}

fn run_to_wire(run: &SeqRun) -> pb::SeqRun {
    pb::SeqRun {
        seq: run.seq.0,
        start: narrow(run.start),
        len: narrow(run.len),
        new_blocks: run.new_blocks.iter().map(|block| block.0).collect(),
        draft_tokens: run.draft_tokens.clone(),
        sample: run.sample,
        masked: run.masked,
    }
}

fn run_from_wire(run: pb::SeqRun) -> SeqRun {
    SeqRun {
        seq: SeqId(run.seq),
        start: run.start as usize,
        len: run.len as usize,
        new_blocks: run.new_blocks.into_iter().map(BlockId).collect(),
        draft_tokens: run.draft_tokens,
        sample: run.sample,
        masked: run.masked,
    }
}

fn sample_to_wire(sample: Sample) -> pb::Sample {
    pb::Sample {
        token: Some(scored_to_wire(sample.token)),
        top: sample.top.into_iter().map(scored_to_wire).collect(),
        logits: sample.logits,
    }
}

fn sample_from_wire(sample: pb::Sample) -> Result<Sample, ConvertError> {
    let token = sample.token.ok_or(ConvertError::Missing { message: "Sample", field: "token" })?;
    Ok(Sample {
        token: scored_from_wire(token),
        top: sample.top.into_iter().map(scored_from_wire).collect(),
        logits: sample.logits,
    })
}

fn scored_to_wire(token: ScoredToken) -> pb::ScoredToken {
    pb::ScoredToken { id: token.id, logprob: token.score.logprob, model_logprob: token.score.model_logprob }
}

fn scored_from_wire(token: pb::ScoredToken) -> ScoredToken {
    ScoredToken { id: token.id, score: TokenScore { logprob: token.logprob, model_logprob: token.model_logprob } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> StepPlan {
        let sampling = SamplingParams::try_new(SamplingSettings {
            choice: Choice::Draw { seed: u64::MAX, index: 1 },
            temperature: 0.7,
            top_k: Some(9),
            top_p: Some(0.5),
            typical_p: Some(0.25),
            min_p: 0.125,
            repetition_penalty: 1.25,
            relative_frequency_penalty: 3.0,
            presence_penalty: -1.5,
            frequency_penalty: 1.75,
            logit_bias: Some([TokenBias { id: 7, bias: -100.0 }, TokenBias { id: 2, bias: 0.5 }].into()),
            watermark: true,
        });
        StepPlan {
            step: StepId(7),
            new: vec![NewSequence {
                seq: SeqId(3),
                tokens: vec![1, 2, 3],
                prompt_len: 2,
                sampling: sampling.expect("within limits"),
                prompt_logprobs: true,
                top_n: 5,
                return_logits: true,
                min_tokens: 4,
                ends: vec![11, 2],
            }],
            retired: vec![SeqId(1), SeqId(2)],
            runs: vec![SeqRun {
                seq: SeqId(3),
                start: 1,
                len: 2,
                new_blocks: vec![BlockId(9)],
                draft_tokens: vec![4],
                sample: true,
                masked: true,
            }],
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let plan = plan();
        assert_eq!(command_from_wire(plan_to_wire(&plan)).expect("valid"), Command::Plan(plan));
        let mask = SampleMask { step: StepId(1), seq: SeqId(2), words: vec![3, 4] };
        assert_eq!(command_from_wire(mask_to_wire(mask.clone())).expect("valid"), Command::Mask(mask));
        let token = ScoredToken { id: 5, score: TokenScore { logprob: -0.5, model_logprob: -1.5 } };
        let result = StepResult {
            step: StepId(8),
            outputs: vec![SeqOutput {
                seq: SeqId(3),
                samples: vec![Sample { token, top: vec![token], logits: vec![0.25] }],
                prompt_logprobs: vec![-2.0],
            }],
            device_time_us: 12,
            all_reduce_time_us: Some(3),
        };
        assert_eq!(result_from_wire(result_to_wire(result.clone())).expect("valid"), result);
    }

    /// What is said of a plan whose new sequence is changed.
    fn refusal(change: impl FnOnce(&mut pb::NewSequence)) -> String {
        let mut command = plan_to_wire(&plan());
        if let Some(pb::worker_command::Command::Plan(plan)) = &mut command.command {
            change(&mut plan.new[0]);
        }
        command_from_wire(command).expect_err("it is no plan any more").to_string()
    }

    #[test]
    fn a_message_that_lacks_a_part_is_refused() {
        assert!(command_from_wire(pb::WorkerCommand { command: None }).is_err());
        assert_eq!(refusal(|new| new.sampling = None), "NewSequence without `sampling`");
        assert_eq!(refusal(|new| new.tokens.clear()), "NewSequence without `tokens`");
        let nan = refusal(|new| new.sampling.as_mut().expect("set above").temperature = f32::NAN);
        assert_eq!(nan, "sequence 3: `temperature` must be strictly positive");
        let twice = refusal(|new| new.sampling.as_mut().expect("set above").logit_bias[1].id = 7);
        assert_eq!(twice, "sequence 3: `logit_bias` must have each token once. Token 7 is there twice");
    }

    #[test]
    fn a_prompt_is_the_beginning_of_its_sequence() {
        for prompt_len in [0, 4, u32::MAX] {
            let said = refusal(|new| new.prompt_len = prompt_len);
            assert_eq!(said, format!("sequence 3: a prompt of {prompt_len} tokens, expected 1 to 3"));
        }
    }
}
