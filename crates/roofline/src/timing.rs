//! From launches to seconds.

use crate::Batch;
use crate::assumptions::{
    ATTENTION_GFLOPS, ATTENTION_READ_PERCENT, LIBRARY_READ_PERCENT, OVERLAP_POWER, PLAIN_READ_PERCENT,
    PREFILL_ATTENTION_GFLOPS, PREFILL_ATTENTION_PERCENT, own_attention_tflops,
};
use crate::launches::{Kernels, Launch, Limit, Shape};
use model::{FalconConfig, Partition};
use sizing::{Gpu, Node};

/// How long steps of a model take on a node: predictions.
#[derive(Clone)]
pub struct Timing {
    gpu: &'static Gpu,
    world: usize,
    kernels: Kernels,
    read_percent: f64,
    /// What the ranks have; equal ones once.
    shapes: Vec<Shape>,
}

impl Timing {
    /// Of a model over `world` GPUs of `node`.
    #[must_use]
    pub fn new(config: &FalconConfig, node: &'static Node, world: usize, kernels: Kernels) -> Self {
        let mut shapes: Vec<Shape> = Vec::new();
        for rank in 0..world {
            let shape = Shape::new(config, &Partition::new(config, rank, world));
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        let read_percent = match kernels {
            Kernels::Own => PLAIN_READ_PERCENT,
            Kernels::Stock => LIBRARY_READ_PERCENT,
        };
        Self { gpu: node.gpu, world, kernels, read_percent, shapes }
    }

    /// With products that reach another part of the plain read.
    #[must_use]
    pub fn at_read_percent(self, read_percent: f64) -> Self {
        Self { read_percent, ..self }
    }

    /// What the slowest rank launches.
    #[must_use]
    pub fn launches(&self, batch: &Batch) -> Vec<Launch> {
        let launches = |shape: &Shape| shape.launches(self.kernels, batch);
        let slowest = self.shapes.iter().map(launches).max_by(|a, b| self.sum(a).total_cmp(&self.sum(b)));
        slowest.expect("there is a rank")
    }

    /// Seconds that a step takes.
    #[must_use]
    pub fn step_seconds(&self, batch: &Batch) -> f64 {
        self.sum(&self.launches(batch))
    }

    /// Seconds below which no kernels come: bytes at the memory's specified rate, or operations at the tensor cores'.
    #[must_use]
    pub fn floor_seconds(&self, batch: &Batch) -> f64 {
        let floor = |launch: &Launch| launch.times as f64 * self.launch_floor_seconds(launch);
        self.launches(batch).iter().map(floor).sum()
    }

    fn sum(&self, launches: &[Launch]) -> f64 {
        launches.iter().map(|launch| launch.times as f64 * self.launch_seconds(launch)).sum()
    }

    /// Below what one of a launch cannot come.
    #[must_use]
    pub fn launch_floor_seconds(&self, launch: &Launch) -> f64 {
        let memory = launch.bytes as f64 / (self.gpu.spec_gbps * 1e9);
        memory.max(launch.flops as f64 / (self.gpu.tensor_tflops * 1e12))
    }

    /// Seconds that one of a launch takes.
    #[must_use]
    pub fn launch_seconds(&self, launch: &Launch) -> f64 {
        let read = |percent: f64| launch.bytes as f64 / (self.gpu.plain_read_gbps * 1e9 * percent / 100.0);
        let tensor = |percent: f64| launch.flops as f64 / (self.gpu.tensor_tflops * 1e12 * percent / 100.0);
        let attention = |gflops: f64| match self.kernels {
            Kernels::Own => launch.flops as f64 / (own_attention_tflops(self.gpu, gflops) * 1e12),
            Kernels::Stock => tensor(PREFILL_ATTENTION_PERCENT),
        };
        let link = &self.gpu.link;
        let variable = match launch.limit {
            Limit::Product => overlapped(read(self.read_percent), tensor(self.gpu.tensor_percent)),
            Limit::Attention => read(ATTENTION_READ_PERCENT).max(attention(ATTENTION_GFLOPS)),
            Limit::PrefillAttention => read(ATTENTION_READ_PERCENT).max(attention(PREFILL_ATTENTION_GFLOPS)),
            Limit::Memory => read(100.0),
            Limit::AllReduce => link.all_reduce_seconds(self.world, launch.link_bytes),
            Limit::Gather => launch.link_bytes as f64 / (link.gbps() * 1e9),
            Limit::Fixed => 0.0,
        };
        launch.fixed_us * 1e-6 + variable
    }
}

fn overlapped(memory: f64, tensor: f64) -> f64 {
    (memory.powf(OVERLAP_POWER) + tensor.powf(OVERLAP_POWER)).powf(OVERLAP_POWER.recip())
}
