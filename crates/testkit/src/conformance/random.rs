//! Random inputs, and how they come into a backend.

use backend::{Backend, Linear, Norm};
use half::bf16;
use std::ops::Range;

/// A generator that prints its seed, so that a failure can be repeated: set `CONFORMANCE_SEED` to it.
pub struct Random(pub fastrand::Rng);

impl Random {
    pub fn new() -> Self {
        let given = std::env::var("CONFORMANCE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        eprintln!("CONFORMANCE_SEED={seed}");
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Between −`limit` and `limit`.
    pub fn values(&mut self, len: usize, limit: f32) -> Vec<f32> {
        (0..len).map(|_| (self.0.f32() * 2.0 - 1.0) * limit).collect()
    }

    pub fn linear(&mut self, outputs: usize, inputs: usize, with_bias: bool) -> HostLinear {
        let weight = self.values(outputs * inputs, 1.0).into_iter().map(bf16::from_f32).collect();
        let bias = with_bias.then(|| self.values(outputs, 1.0));
        HostLinear { outputs, inputs, weight, bias }
    }

    pub fn norm(&mut self, columns: usize) -> HostNorm {
        HostNorm { scale: self.values(columns, 2.0), bias: self.values(columns, 1.0), eps: 1e-5 }
    }
}

/// A [`Linear`] on the host.
pub struct HostLinear {
    pub outputs: usize,
    pub inputs: usize,
    pub weight: Vec<bf16>,
    pub bias: Option<Vec<f32>>,
}

impl HostLinear {
    pub fn on<B: Backend>(&self, backend: &mut B) -> Linear<B> {
        let read = |range: Range<usize>, to: &mut [bf16]| to.copy_from_slice(&self.weight[range]);
        let weight = backend.matrix(self.outputs, self.inputs, &read).expect("room for a weight");
        let bias = self.bias.as_ref().map(|bias| backend.vector(bias).expect("room for a bias"));
        Linear { weight, bias }
    }

    /// With the magnitudes of all elements.
    pub fn magnitudes(&self) -> Self {
        Self {
            outputs: self.outputs,
            inputs: self.inputs,
            weight: self.weight.iter().map(|w| bf16::from_f32(w.to_f32().abs())).collect(),
            bias: self.bias.as_ref().map(|bias| magnitudes(bias)),
        }
    }
}

pub fn magnitudes(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| x.abs()).collect()
}

/// A [`Norm`] on the host.
pub struct HostNorm {
    pub scale: Vec<f32>,
    pub bias: Vec<f32>,
    pub eps: f32,
}

impl HostNorm {
    pub fn on<B: Backend>(&self, backend: &mut B) -> Norm<B> {
        let scale = backend.vector(&self.scale).expect("room for a scale");
        let bias = backend.vector(&self.bias).expect("room for a bias");
        Norm { scale, bias, eps: self.eps }
    }
}

/// A tensor that holds `values`.
pub fn tensor<B: Backend>(backend: &mut B, rows: usize, values: &[f32]) -> B::Tensor {
    let mut tensor = empty(backend, rows, values.len() / rows);
    backend.write(&mut tensor, values).expect("write");
    backend::Tensor::set_rows(&mut tensor, rows);
    tensor
}

/// A tensor for results.
pub fn empty<B: Backend>(backend: &mut B, rows: usize, columns: usize) -> B::Tensor {
    let mut tensor = backend.tensor(rows, columns).expect("room for a tensor");
    backend::Tensor::set_rows(&mut tensor, rows);
    tensor
}
