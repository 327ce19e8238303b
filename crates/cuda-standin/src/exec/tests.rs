//! Small kernels, run as the driver would run them.

mod arithmetic;
mod blocks;
mod faults;
mod flow;
mod memory;
mod shipped;
mod warps;

use super::counters::KernelCounters;
use super::launch::{CopyMode, GlobalMemory, Launch, LaunchError};
use super::{Fault, FaultKind};
use crate::ptx::lower::Globals;
use crate::ptx::{Program, PtxError, lower_entry, parse};
use std::ops::Range;
use std::time::Duration;

/// Global memory: an output and an input, 256 bytes apart from anything else.
struct Buffers {
    out: Vec<u64>,
    input: Vec<u64>,
}

fn range(buffer: &[u64]) -> Range<u64> {
    let start = buffer.as_ptr() as u64;
    start..start + 8 * buffer.len() as u64
}

impl GlobalMemory for Buffers {
    fn range_of(&self, address: u64) -> Result<Range<u64>, String> {
        [range(&self.out), range(&self.input)]
            .into_iter()
            .find(|range| range.contains(&address))
            .ok_or_else(|| "where nothing is allocated".to_owned())
    }
}

/// A kernel `k(out, in)` and how it is launched.
struct Kernel {
    ptx: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    copies: CopyMode,
    seed: u64,
    threads: usize,
    resident: usize,
    out_words: usize,
    input: Vec<u32>,
}

/// What stands before the body: `%rd4` and `%rd5` are the thread's words of the output and the input, `%r1` is its number
/// in the block.
const PROLOGUE: &str = "
    .reg .pred %p<20>; .reg .b16 %rs<40>; .reg .b32 %r<100>; .reg .f32 %f<60>; .reg .b64 %rd<40>; .reg .f64 %fd<10>;
    ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [in];
    mov.u32 %r1, %tid.x; mov.u32 %r98, %ctaid.x; mov.u32 %r99, %ntid.x; mad.lo.u32 %r97, %r98, %r99, %r1;
    mul.wide.u32 %rd3, %r97, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;";

impl Kernel {
    fn new(body: &str) -> Self {
        Self::with_module("", body)
    }

    fn with_module(module: &str, body: &str) -> Self {
        let ptx = format!(
            ".version 8.2\n.target sm_80\n.address_size 64\n{module}\n\
             .visible .entry k(.param .u64 out, .param .u64 in)\n{{ {PROLOGUE}\n{body}\nret; }}\n"
        );
        Self {
            ptx,
            grid: [1, 1, 1],
            block: [32, 1, 1],
            shared_bytes: 0,
            copies: CopyMode::Late,
            seed: 0,
            threads: 1,
            resident: 8,
            out_words: 0,
            input: (0..1024).collect(),
        }
    }

    fn grid(mut self, blocks: u32, threads: u32) -> Self {
        (self.grid, self.block) = ([blocks, 1, 1], [threads, 1, 1]);
        self
    }

    fn input(mut self, input: impl IntoIterator<Item = u32>) -> Self {
        self.input = input.into_iter().collect();
        self.input.resize(self.input.len().next_multiple_of(2), 0);
        self
    }

    fn lower(&self) -> Result<Program, PtxError> {
        lower_entry(&parse(&self.ptx)?, "k", &Globals::new()).expect("there is an entry `k`")
    }

    /// The output, one word for each thread (or `out_words`), and the counters.
    fn launch(&self) -> Result<(Vec<u32>, KernelCounters), LaunchError> {
        let program = self.lower().unwrap_or_else(|error| panic!("{error}"));
        let threads = (self.grid[0] * self.block[0]) as usize;
        let words = if self.out_words > 0 { self.out_words } else { threads };
        let input = self.input.chunks(2).map(|pair| u64::from(pair[1]) << 32 | u64::from(pair[0])).collect();
        let memory = Buffers { out: vec![0; words.div_ceil(2)], input };
        let params: Vec<u8> =
            [range(&memory.out).start, range(&memory.input).start].iter().flat_map(|at| at.to_le_bytes()).collect();
        let launch = Launch {
            program: &program,
            grid: self.grid,
            block: self.block,
            shared_bytes: self.shared_bytes,
            params: &params,
            memory: &memory,
            copies: self.copies,
            seed: self.seed,
            threads: self.threads,
            resident: self.resident,
            sms: 4,
            count: true,
            time_limit: Some(Duration::from_secs(20)),
        };
        let counters = launch.run()?;
        // The executor writes through addresses, not through the vector.
        let out = std::hint::black_box(&memory).out.clone();
        let words = out.iter().flat_map(|pair| [*pair as u32, (*pair >> 32) as u32]).take(words).collect();
        Ok((words, counters))
    }

    fn run(&self) -> Vec<u32> {
        self.launch().unwrap_or_else(|error| panic!("{error}")).0
    }

    fn fault(&self) -> Fault {
        match self.launch() {
            Err(LaunchError::Fault(fault)) => *fault,
            Err(other) => panic!("{other}"),
            Ok((out, _)) => panic!("no fault; out is {out:?}"),
        }
    }
}

/// What a body leaves in `%r2`, for each lane.
fn lanes(body: &str) -> Vec<u32> {
    Kernel::new(&format!("{body}\nst.global.u32 [%rd4], %r2;")).run()
}

/// What a body leaves in `%r2` in lane 0.
fn value(body: &str) -> u32 {
    lanes(body)[0]
}

fn values_of(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}
