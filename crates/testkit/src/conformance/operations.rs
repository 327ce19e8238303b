//! The operations on one rank, but for attention.

use super::random::{HostLinear, HostNorm, Random, empty, magnitudes, tensor};
use super::{Subject, assert_bits, assert_close, reference};
use backend::{Backend, Batch, NormLinear, StepInput};

/// Rows, outputs and inputs of products: none, one, more than fit any tile, odd ones, and so many that pipelines run long.
const PRODUCTS: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 0, 8),
    (3, 8, 0),
    (2, 5, 33),
    (5, 3, 15),
    (70, 9, 64),
    (7, 67, 200),
    (6, 16, 544),
    (1, 130, 1024),
    (17, 33, 96),
    (49, 70, 31),
    (1, 2000, 72),
    (300, 9, 40),
    (35, 530, 1060),
    (2, 70, 2100),
    (3, 1030, 8200),
];

/// [`Backend::embed`]: exact.
pub fn embed<B: Backend>(subject: &Subject<B>) {
    fn run<B: Backend>(backend: &mut B, table: &HostLinear, first: usize, tokens: &[u32]) -> Vec<f32> {
        let mut y = empty(backend, tokens.len(), table.inputs);
        let table = table.on(backend);
        let batch = Batch { tokens: tokens.to_vec(), ..Batch::default() };
        let step = backend.prepare(StepInput::without_logits(&batch)).expect("prepare");
        backend.embed(&table.weight, first, &step, &mut y).expect("embed");
        backend.read(&y).expect("read")
    }
    let (mut random, mut backend) = (Random::new(), subject.alone());
    for (entries, columns, first) in [(0, 24, 0), (5, 33, 0), (37, 64, 10), (1, 8, 3)] {
        let columns = usize::next_multiple_of(columns, B::HIDDEN_MULTIPLE);
        let table = random.linear(entries, columns, false);
        let tokens: Vec<u32> = (0..70).map(|_| random.0.u32(..50)).collect();
        let expected = run(&mut reference(), &table, first, &tokens);
        assert_bits("embed", &run(&mut backend, &table, first, &tokens), &expected);
    }
}

/// [`Backend::layer_norm`], relative to the largest result.
pub fn layer_norm<B: Backend>(subject: &Subject<B>) {
    fn run<B: Backend>(backend: &mut B, norm: &HostNorm, rows: usize, x: &[f32]) -> Vec<f32> {
        let norm = norm.on(backend);
        let x = tensor(backend, rows, x);
        let mut y = empty(backend, rows, backend::Tensor::columns(&x));
        backend.layer_norm(&x, &norm, &mut y).expect("layer_norm");
        backend.read(&y).expect("read")
    }
    let (mut random, mut backend) = (Random::new(), subject.alone());
    for (rows, columns) in [(1, 1), (3, 16), (70, 33), (2, 200), (5, 4544), (17, 72)] {
        let columns = usize::next_multiple_of(columns, B::HIDDEN_MULTIPLE);
        let norm = random.norm(columns);
        // A mean far from 0 shows sums of squares that cancel.
        let x: Vec<f32> = random.values(rows * columns, 1.0).into_iter().map(|x| x + 10.0).collect();
        let expected = run(&mut reference(), &norm, rows, &x);
        let largest = expected.iter().fold(1.0, |max: f32, y| max.max(y.abs()));
        // Rounding of the mean, about 10, enters each difference from it.
        let magnitude = 10.0 * largest;
        assert_close("layer_norm", &run(&mut backend, &norm, rows, &x), &expected, subject.tolerance, |_| magnitude);
    }
}

/// [`Backend::linear`] and [`Backend::linear_add`], relative to `|x|·|W|ᵀ + |b|`.
pub fn linear<B: Backend>(subject: &Subject<B>) {
    let (mut random, mut backend) = (Random::new(), subject.alone());
    for (rows, outputs, inputs) in PRODUCTS {
        for with_bias in [false, true] {
            let linear = random.linear(outputs, inputs, with_bias);
            let (x, y) = (random.values(rows * inputs, 1.0), random.values(rows * outputs, 1.0));
            let bounds = product(&mut reference(), &linear.magnitudes(), rows, &magnitudes(&x), Some(&magnitudes(&y)));
            for y in [None, Some(&y[..])] {
                let expected = product(&mut reference(), &linear, rows, &x, y);
                let got = product(&mut backend, &linear, rows, &x, y);
                let what = format!("{rows} rows, {outputs} outputs, {inputs} inputs, add {}", y.is_some());
                assert_close(&what, &got, &expected, subject.tolerance, |i| bounds[i]);
            }
        }
    }
}

/// `x·Wᵀ + b`, added to `y` where there is one.
fn product<B: Backend>(backend: &mut B, linear: &HostLinear, rows: usize, x: &[f32], y: Option<&[f32]>) -> Vec<f32> {
    let mut result = empty(backend, rows, linear.outputs);
    let linear = linear.on(backend);
    let x = tensor(backend, rows, x);
    match y {
        None => backend.linear(&x, &linear, &mut result).expect("linear"),
        Some(y) => {
            result = tensor(backend, rows, y);
            backend.linear_add(&x, &linear, &mut result).expect("linear_add");
        }
    }
    backend.read(&result).expect("read")
}

/// [`Backend::gelu`], relative to `|x|` (to 1 where that is less), and what is not a number.
pub fn gelu<B: Backend>(subject: &Subject<B>) {
    fn run<B: Backend>(backend: &mut B, x: &[f32]) -> Vec<f32> {
        let mut x = tensor(backend, 1, x);
        backend.gelu(&mut x).expect("gelu");
        backend.read(&x).expect("read")
    }
    let (mut random, mut backend) = (Random::new(), subject.alone());
    let mut x: Vec<f32> = (-12_000..=12_000).map(|i| i as f32 / 1000.0).collect();
    x.extend(random.values(1000, 1.0).into_iter().chain([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30]));
    let (got, expected) = (run(&mut backend, &x), run(&mut reference(), &x));
    assert_close("gelu", &got, &expected, subject.tolerance, |i| x[i].abs().max(1.0));
    let odd = run(&mut backend, &[f32::INFINITY, f32::NAN, 1.0]);
    assert!(odd[0] == f32::INFINITY && odd[1].is_nan() && odd[2].is_finite(), "gelu of infinity, NaN and 1: {odd:?}");
}

/// [`Backend::select`]: exact.
pub fn select<B: Backend>(subject: &Subject<B>) {
    let (mut random, mut backend) = (Random::new(), subject.alone());
    let values = random.values(9 * 33, 1.0);
    let x = tensor(&mut backend, 9, &values);
    let mut y = empty(&mut backend, 5, 33);
    for rows in [&[][..], &[3], &[8, 0, 0, 5, 7]] {
        backend.select(&x, rows, &mut y).expect("select");
        let expected: Vec<f32> = rows.iter().flat_map(|row| values[row * 33..][..33].to_vec()).collect();
        assert_bits("select", &backend.read(&y).expect("read"), &expected);
    }
}

/// [`Backend::select_norm_linear`] against the plain operations, relative to the magnitudes of the product's terms.
pub fn select_norm_linear<B: Backend>(subject: &Subject<B>) {
    let (mut random, mut backend) = (Random::new(), subject.alone());
    let (b, hidden, outputs) = (&mut backend, 72, 35);
    let (norm, linear) = (random.norm(hidden).on(b), random.linear(outputs, hidden, true).on(b));
    let x = tensor(b, 40, &random.values(40 * hidden, 1.0));
    let [mut selected, mut normed] = [(); 2].map(|()| empty(b, 33, hidden));
    let [mut y, mut expected] = [(); 2].map(|()| empty(b, 33, outputs));
    let batch = Batch { tokens: vec![0; 40], ..Batch::default() };
    let many: Vec<usize> = (0..33).map(|i| (i * 7) % 40).collect();
    for rows in [&[39][..], &[3, 0, 0, 17], &many] {
        let product = NormLinear { norm: &norm, linear: &linear, gelu: false, y: &mut y };
        let step = b.prepare(StepInput { batch: &batch, rows, requests: &[] }).expect("prepare");
        let scratch = [&mut selected, &mut normed];
        b.select_norm_linear(&x, &step, 0..rows.len(), product, scratch).expect("select_norm_linear");
        b.select(&x, rows, &mut selected).expect("select");
        backend::Tensor::set_rows(&mut normed, rows.len());
        backend::Tensor::set_rows(&mut expected, rows.len());
        b.layer_norm(&selected, &norm, &mut normed).expect("layer_norm");
        b.linear(&normed, &linear, &mut expected).expect("linear");
        let (got, expected) = (b.read(&y).expect("read"), b.read(&expected).expect("read"));
        assert_close("select_norm_linear", &got, &expected, subject.tolerance, |_| 32.0 * (hidden as f32).sqrt());
    }
}

/// The fused operations against the plain ones that they stand for, relative to the magnitudes of the last product's
/// terms.
pub fn fused_operations<B: Backend>(subject: &Subject<B>) {
    let (mut random, mut backend) = (Random::new(), subject.alone());
    let shapes = [(1, 64, 96, 40), (70, 33, 7, 0), (5, 200, 130, 64), (3, 64, 0, 16), (2, 8192, 600, 424)];
    for (rows, hidden, first, second) in shapes {
        let hidden = usize::next_multiple_of(hidden, B::HIDDEN_MULTIPLE);
        let b = &mut backend;
        let (norms, linears): ([HostNorm; 2], [HostLinear; 2]) = (
            [random.norm(hidden), random.norm(hidden)],
            [random.linear(first, hidden, true), random.linear(second, hidden, false)],
        );
        let x = random.values(rows * hidden, 1.0);
        let (norms, linears) = (norms.map(|norm| norm.on(b)), linears.map(|linear| linear.on(b)));
        let (x, mut normed) = (tensor(b, rows, &x), empty(b, rows, hidden));
        for (second_norm, gelu) in [(0, false), (1, true)] {
            let [mut y0, mut y1] = [empty(b, rows, first), empty(b, rows, second)];
            let products = &mut [
                NormLinear { norm: &norms[0], linear: &linears[0], gelu: false, y: &mut y0 },
                NormLinear { norm: &norms[second_norm], linear: &linears[1], gelu, y: &mut y1 },
            ];
            b.norm_linear(&x, products, &mut normed).expect("norm_linear");
            let second = (&norms[second_norm], &linears[1], gelu, &y1);
            for (norm, linear, gelu, y) in [(&norms[0], &linears[0], false, &y0), second] {
                let mut expected = empty(b, rows, backend::Tensor::columns(y));
                b.layer_norm(&x, norm, &mut normed).expect("layer_norm");
                b.linear(&normed, linear, &mut expected).expect("linear");
                if gelu {
                    b.gelu(&mut expected).expect("gelu");
                }
                let (got, expected) = (b.read(y).expect("read"), b.read(&expected).expect("read"));
                assert_close("norm_linear", &got, &expected, subject.tolerance, |_| 32.0 * (hidden as f32).sqrt());
            }
        }
        let (dense, down) = (random.linear(hidden, first, true), random.linear(hidden, second, false));
        let (dense, down) = (dense.on(b), down.on(b));
        let (attention, up) = (random.values(rows * first, 1.0), random.values(rows * second, 1.0));
        let (attention, up) = (tensor(b, rows, &attention), tensor(b, rows, &up));
        let [mut y, mut expected] = [empty(b, rows, hidden), empty(b, rows, hidden)];
        b.dense_and_down(&attention, &dense, &up, &down, &mut y).expect("dense_and_down");
        b.linear(&attention, &dense, &mut expected).expect("linear");
        b.linear_add(&up, &down, &mut expected).expect("linear_add");
        let (got, expected) = (b.read(&y).expect("read"), b.read(&expected).expect("read"));
        assert_close("dense_and_down", &got, &expected, subject.tolerance, |_| 1.0 + (first + second) as f32);
    }
}
