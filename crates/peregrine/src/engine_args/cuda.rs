//! The arguments of ranks on GPUs, which a worker takes, too.

use backend_cuda::AllReduceChoice;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use runtime::CudaSettings;
use std::ffi::OsString;

/// How ranks use GPUs.
#[derive(Args, Clone, Debug, Default)]
pub struct CudaArgs {
    /// The all-reduce algorithm; auto takes kernels that read the other GPUs' memory, where that is possible. (cuda)
    #[arg(long, value_enum, value_name = "HOW", default_value_t = AllReduce::Auto)]
    all_reduce: AllReduce,
    /// A request's tokens do not depend on other requests or on chunked prefill, to the bit. Slower. (cuda; the cpu backend
    /// always does so)
    #[arg(long)]
    deterministic: bool,
    /// Let each worker run on all cores, and not only on those next to its GPU. (cuda)
    #[arg(long)]
    no_cpu_binding: bool,
    /// Capture decode steps as CUDA graphs, and launch each as a whole. (cuda)
    #[arg(long, value_enum, value_name = "ON", default_value_t = Switch::On)]
    cuda_graphs: Switch,
    /// Start a step while the GPUs still work on the one before. (cuda)
    #[arg(long, value_enum, value_name = "ON", default_value_t = Switch::On, hide = true)]
    run_ahead: Switch,
    /// Wait for each kernel, so that an error names the kernel that failed. (cuda)
    #[arg(long, hide = true)]
    check_launches: bool,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// On.
    #[default]
    On,
    /// Off.
    Off,
}

/// An all-reduce algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum AllReduce {
    /// The fastest that the machine allows.
    #[default]
    Auto,
    /// One-shot kernels: each rank reads all partial sums of the others.
    OneShot,
    /// Two-shot kernels: each rank sums a share, and reads the sums of the others.
    TwoShot,
    /// NCCL.
    Nccl,
}

impl CudaArgs {
    /// As ranks take them.
    pub fn settings(&self) -> CudaSettings {
        CudaSettings {
            all_reduce: match self.all_reduce {
                AllReduce::Auto => AllReduceChoice::Auto,
                AllReduce::OneShot => AllReduceChoice::OneShot,
                AllReduce::TwoShot => AllReduceChoice::TwoShot,
                AllReduce::Nccl => AllReduceChoice::Nccl,
            },
            deterministic: self.deterministic,
            cpu_binding: !self.no_cpu_binding,
            graphs: self.cuda_graphs == Switch::On,
            run_ahead: self.run_ahead == Switch::On,
            check_launches: self.check_launches,
        }
    }

    /// What differs from the defaults, as arguments of a worker.
    pub fn arguments(&self) -> Vec<OsString> {
        let name = |choice: Option<PossibleValue>| choice.expect("no choice is skipped").get_name().to_owned();
        let usual = Self::default();
        let choices = [
            ("--all-reduce", self.all_reduce != usual.all_reduce, self.all_reduce.to_possible_value()),
            ("--cuda-graphs", self.cuda_graphs != usual.cuda_graphs, self.cuda_graphs.to_possible_value()),
            ("--run-ahead", self.run_ahead != usual.run_ahead, self.run_ahead.to_possible_value()),
        ];
        let changed = choices.into_iter().filter(|(_, changed, _)| *changed);
        let mut arguments: Vec<_> = changed.flat_map(|(flag, _, choice)| [flag.to_owned(), name(choice)]).collect();
        let flags = [
            ("--deterministic", self.deterministic),
            ("--no-cpu-binding", self.no_cpu_binding),
            ("--check-launches", self.check_launches),
        ];
        arguments.extend(flags.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag.to_owned()));
        arguments.into_iter().map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Worker {
        #[command(flatten)]
        cuda: CudaArgs,
    }

    fn parse(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> CudaArgs {
        let arguments = arguments.into_iter().map(Into::into);
        Worker::parse_from(std::iter::once(OsString::from("worker")).chain(arguments)).cuda
    }

    #[test]
    fn a_worker_gets_the_settings_of_its_coordinator() {
        let usual = parse([""; 0]);
        assert_eq!(usual.settings(), CudaSettings::default());
        let other = CudaSettings {
            all_reduce: AllReduceChoice::TwoShot,
            deterministic: true,
            cpu_binding: false,
            graphs: false,
            run_ahead: false,
            check_launches: true,
        };
        let flags = "--all-reduce two-shot --deterministic --no-cpu-binding --cuda-graphs off --run-ahead off";
        let given = parse(flags.split(' ').chain(["--check-launches"]));
        assert_eq!(given.settings(), other);
        for args in [given, usual, parse(["--all-reduce", "one-shot"]), parse(["--all-reduce", "nccl"])] {
            assert_eq!(parse(args.arguments()).settings(), args.settings(), "{:?}", args.arguments());
        }
    }
}
