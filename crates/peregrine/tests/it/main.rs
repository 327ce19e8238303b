//! The `peregrine` program as its users meet it: real processes, loopback addresses, signals and faults.
//!
//! * [`support`]: starts programs, watches what they leave behind, and ends them whatever happens.
//! * [`access`]: who may call.
//! * [`apis`]: gRPC and HTTP, as a client sees them.
//! * [`cancel`]: callers that give up.
//! * [`connections`], [`descriptors`]: limits of connections, and of descriptors.
//! * [`lifecycle`]: signals, and processes that die with others.
//! * [`recovery`]: workers that die, hang or fail, and requests that go on.
//! * [`bad_input`]: models and flags that cannot work.
//! * [`checkpoints`]: models in other spellings, and what is no checkpoint.
//! * [`benchmarks`]: `peregrine bench`.
//! * [`bodies`]: the largest bodies there may be.
//! * [`cuda`]: GPUs, which are stood in for; [`cuda_recovery`]: what becomes of them behind a fault.
//! * [`hub`]: models of the Hugging Face hub, which [`mock_hub`] stands for.
//! * [`dialects`]: the HTTP dialects, and how flags and variables set them.
//! * [`generate_cli`]: `peregrine generate`.
//! * [`chat_cli`]: `peregrine chat`.
//! * [`ctl`]: `peregrine ctl`.
//! * [`capacity`]: what cannot fit, where a model runs, and what `doctor` says.
//! * [`load`]: what requests share, and what they must not hold.
//! * [`pauses`]: processes that stand still, and go on.
//! * [`logs`]: a log that cannot be written.
//! * [`reflection`]: what gRPC tells of its services.
//! * [`settings`]: variables and a file that set flags.
//! * [`surroundings`]: variables, paths and what else a program finds where it is started.
//! * [`memory`]: what the workers hold.
//! * [`model_files`]: weights files that change while they are served.
//! * [`openai`]: OpenAI's routes, over real workers.
//! * [`shard`]: models that are cut for their workers. [`stores`]: models in object stores.
//! * [`supervisor`]: what systemd is told.
//! * [`upgrade`]: a process takes over from another, under load.
//! * [`text`]: ends of a text, stop strings, special tokens, and prompts of any length.
//! * [`validation`]: requests that break a rule.

mod access;
mod apis;
#[path = "../../../server/tests/http/authority.rs"]
mod authority;
mod bad_input;
mod benchmarks;
mod bodies;
mod cancel;
mod capacity;
mod chat_cli;
mod checkpoints;
mod connections;
mod ctl;
mod cuda;
mod cuda_recovery;
mod descriptors;
mod dialects;
mod generate_cli;
mod grpc_chat;
mod hub;
mod lifecycle;
mod load;
mod logs;
mod malformed;
mod memory;
#[path = "../../../source/tests/hub/mock.rs"]
mod mock_hub;
mod model_files;
mod openai;
mod openapi;
mod pauses;
mod recovery;
mod reflection;
#[allow(dead_code, reason = "tests of `source` want more of it")]
#[path = "../../../source/tests/store/server.rs"]
mod s3;
mod settings;
mod shard;
#[path = "../support/standin.rs"]
mod standin;
mod stores;
mod supervisor;
mod support;
mod surroundings;
mod text;
mod upgrade;
mod validation;
