//! The CPU backend against the reference, with every instruction set and several threads. Where the CPU has no matrix
//! unit, a stand-in executes its instructions.

use backend::{Backend, BackendError, Linear, MappedTensor, MappedWeight, Norm, NormLinear, Tensor, Threads};
use backend_cpu::{Cpu, CpuOptions, Isa};
use half::bf16;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use testkit::conformance::{MakeRank, Subject, same_bits};
use testkit::conformance_suite;

/// The instruction sets that can be tested here.
fn isas() -> impl Iterator<Item = Isa> {
    amx_standin::install();
    Isa::ALL.into_iter().filter(|isa| isa.supported())
}

/// Ranks with `threads` threads each. A CPU without `isa` is tested with the best that it has.
fn cpu(isa: Isa, threads: usize) -> Subject<Cpu<Threads>> {
    let isa = isa.min(isas().max().unwrap_or(Isa::Plain));
    let options = CpuOptions { threads, isa: Some(isa), cores: None };
    let rank = move |end| {
        let options = options.clone();
        Box::new(move || Cpu::new(&options, end).expect("a supported instruction set")) as MakeRank<Cpu<Threads>>
    };
    let ranks = move |world| Threads::connect(world).into_iter().map(&rank).collect();
    // The matrix unit takes activations as two bf16, which leave up to 2⁻¹⁸ of them.
    let tolerance = if isa == Isa::Amx { 5e-6 } else { 1e-6 };
    Subject { ranks: Box::new(ranks), tolerance }
}

conformance_suite!(plain, cpu(Isa::Plain, 1));
conformance_suite!(plain_2_threads, cpu(Isa::Plain, 2));
conformance_suite!(avx2, cpu(Isa::Avx2, 1));
conformance_suite!(avx2_3_threads, cpu(Isa::Avx2, 3));
conformance_suite!(avx512, cpu(Isa::Avx512, 1));
conformance_suite!(avx512_2_threads, cpu(Isa::Avx512, 2));
conformance_suite!(avx512_3_threads, cpu(Isa::Avx512, 3));
conformance_suite!(amx, cpu(Isa::Amx, 1));
conformance_suite!(amx_2_threads, cpu(Isa::Amx, 2));
conformance_suite!(amx_3_threads, cpu(Isa::Amx, 3));

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for isa in Isa::ALL {
        for threads in [2, 3, 4] {
            same_bits(&cpu(isa, 1), &cpu(isa, threads));
        }
    }
}

fn value(i: usize) -> f32 {
    ((i * 7919) % 1009) as f32 / 1009.0 - 0.5
}

/// A weight of values.
fn read_values(range: Range<usize>, to: &mut [bf16]) {
    to.iter_mut().zip(range).for_each(|(w, i)| *w = bf16::from_f32(value(i)));
}

/// Some rows, always the same for the same numbers, by a weight of `outputs` × `columns`.
fn product(
    backend: &mut Cpu<Threads>,
    linear: &Linear<Cpu<Threads>>,
    (outputs, columns): (usize, usize),
    rows: Range<usize>,
) -> Vec<f32> {
    let mut x = backend.tensor(rows.len(), columns).expect("room for a tensor");
    let mut y = backend.tensor(rows.len(), outputs).expect("room for a tensor");
    let values: Vec<f32> = (rows.start * columns..rows.end * columns).map(|i| value(3 * i + 1)).collect();
    backend.write(&mut x, &values).expect("write");
    y.set_rows(rows.len());
    backend.linear(&x, linear, &mut y).expect("linear");
    backend.read(&y).expect("read")
}

/// Long rows, and more of them than any block has: each is what it is alone.
#[test]
fn a_row_of_a_large_product_does_not_depend_on_the_others() {
    const COLUMNS: usize = 2100;
    const OUTPUTS: usize = 100;
    for isa in isas() {
        let mut backend = cpu(isa, 2).alone();
        let weight = backend.matrix(OUTPUTS, COLUMNS, &read_values).expect("room for a weight");
        let linear = Linear { weight, bias: None };
        let mut product = |rows| product(&mut backend, &linear, (OUTPUTS, COLUMNS), rows);
        let all = product(0..300);
        // Every number of rows up to four groups, and some rows from within.
        let batches = (1..=64).map(|rows| 300 - rows..300);
        for rows in batches.chain([0..1, 16..32, 31..64, 100..149, 0..128, 5..250]) {
            let expected = &all[rows.start * OUTPUTS..rows.end * OUTPUTS];
            assert!(product(rows.clone()) == expected, "{isa}: rows {rows:?}");
        }
    }
}

/// The GELU of many outputs by another weight: in tasks and blocks of several chunks, the last of which is short.
#[test]
fn a_row_of_a_large_mlp_does_not_depend_on_the_others() {
    const HIDDEN: usize = 40;
    const UP: usize = 3370;
    for (isa, threads) in isas().flat_map(|isa| [(isa, 1), (isa, 3)]) {
        let mut backend = cpu(isa, threads).alone();
        let mut linear = |outputs, columns| {
            let weight = backend.matrix(outputs, columns, &read_values).expect("room for a weight");
            Linear { weight, bias: Some((0..outputs).map(|i| value(7 * i)).collect()) }
        };
        let (up, down) = (linear(UP, HIDDEN), linear(HIDDEN, UP));
        let norm = Norm { scale: vec![1.5; HIDDEN], bias: vec![0.25; HIDDEN], eps: 1e-5 };
        let mut mlp = |rows: Range<usize>| {
            let b = &mut backend;
            let mut tensor = |columns| b.tensor(rows.len(), columns).expect("room for a tensor");
            let (mut x, mut normed, mut middle, mut y) = (tensor(HIDDEN), tensor(HIDDEN), tensor(UP), tensor(HIDDEN));
            let values: Vec<f32> = (rows.start * HIDDEN..rows.end * HIDDEN).map(|i| value(3 * i + 1)).collect();
            b.write(&mut x, &values).expect("write");
            [&mut normed, &mut middle, &mut y].into_iter().for_each(|tensor| tensor.set_rows(rows.len()));
            let products = &mut [NormLinear { norm: &norm, linear: &up, gelu: true, y: &mut middle }];
            b.norm_linear(&x, products, &mut normed).expect("norm_linear");
            b.linear(&middle, &down, &mut y).expect("linear");
            (b.read(&middle).expect("read"), b.read(&y).expect("read"))
        };
        let (middle, y) = mlp(0..300);
        for rows in [0..1, 7..22, 16..32, 30..63, 100..300] {
            let (middle_alone, y_alone) = mlp(rows.clone());
            assert!(y_alone == y[rows.start * HIDDEN..rows.end * HIDDEN], "{isa}: rows {rows:?}");
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
            assert!(middle_alone.iter().zip(&middle[rows.start * UP..]).all(near), "{isa}: GELU of rows {rows:?}");
        }
    }
}

/// A part of a tensor of a file that counts how often each element of the part has been fetched.
struct Counted {
    elements: Vec<bf16>,
    fetched: Vec<AtomicU32>,
}

impl MappedTensor for Counted {
    fn elements(&self) -> &[bf16] {
        &self.elements
    }

    fn fetch(&self, elements: Range<usize>) -> Result<(), BackendError> {
        self.fetched[elements].iter().for_each(|count| _ = count.fetch_add(1, Ordering::Relaxed));
        Ok(())
    }
}

#[test]
fn a_mapped_weight_is_fetched_once_and_gives_the_bits_of_its_copy() {
    const ROWS: usize = 200;
    const COLUMNS: usize = 1500;
    // Whole rows in pieces and out of order, some of all columns, and nothing: as ranks have them.
    let parts = [(vec![70..163, 3..10, 199..200], 0..COLUMNS), (vec![0..ROWS], 3..1290), (vec![7..7], 0..COLUMNS)];
    for isa in isas() {
        let mut backend = cpu(isa, 2).alone();
        for (rows, columns) in parts.clone() {
            let elements: Vec<bf16> = (0..ROWS * COLUMNS).map(|i| bf16::from_f32(value(i))).collect();
            let places = rows.iter().cloned().flatten().flat_map(|row| columns.clone().map(move |c| row * COLUMNS + c));
            let copy: Vec<bf16> = places.map(|place| elements[place]).collect();
            let tensor = Arc::new(Counted { elements, fetched: copy.iter().map(|_| AtomicU32::new(0)).collect() });
            let whole = Arc::clone(&tensor);
            let part =
                MappedWeight { tensor: whole, columns_total: COLUMNS, rows: rows.clone(), columns: columns.clone() };
            let Some(weight) = backend.mapped_matrix(|| Some(part.clone())).expect("it can be read") else {
                assert_eq!(isa, Isa::Amx, "only the matrix unit needs weights in another form");
                continue;
            };
            assert!(tensor.fetched.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{isa}: fetched once");
            let shape = (part.rows(), columns.len());
            let copied = backend.matrix(shape.0, shape.1, &|range, to| to.copy_from_slice(&copy[range]));
            let [mapped, copied] = [weight, copied.expect("room")].map(|weight| Linear { weight, bias: None });
            for x_rows in [1, 3, 7, 20, 130] {
                let [mapped, copied] = [&mapped, &copied].map(|linear| product(&mut backend, linear, shape, 0..x_rows));
                assert!(mapped == copied, "{isa}: {x_rows} rows by {rows:?} of {columns:?}");
            }
        }
    }
}

#[test]
fn a_mapped_weight_that_cannot_be_read_is_an_error() {
    struct Unreadable;
    impl MappedTensor for Unreadable {
        fn elements(&self) -> &[bf16] {
            unreachable!("it is fetched first")
        }

        fn fetch(&self, elements: Range<usize>) -> Result<(), BackendError> {
            let bad = elements.contains(&2500);
            let error =
                || BackendError::Device { operation: "reading", message: "model.safetensors: no disk".to_owned() };
            if bad { Err(error()) } else { Ok(()) }
        }
    }
    for isa in isas().filter(|isa| *isa != Isa::Amx) {
        let part =
            MappedWeight { tensor: Arc::new(Unreadable), columns_total: 100, rows: vec![0..100], columns: 0..50 };
        let error = cpu(isa, 2).alone().mapped_matrix(|| Some(part)).err().expect("it cannot be read").to_string();
        assert_eq!(error, "reading: model.safetensors: no disk");
    }
}
