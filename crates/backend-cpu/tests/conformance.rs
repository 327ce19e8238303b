//! The CPU backend against the reference, with every instruction set and several threads.

use backend::conformance::{MakeRank, Subject, same_bits};
use backend::{Backend, Linear, Tensor, Threads, conformance_suite};
use backend_cpu::{Cpu, CpuOptions, Isa};
use half::bf16;
use std::ops::Range;

/// Ranks with `threads` threads each. A processor without `isa` is tested with the best that it has.
fn cpu(isa: Isa, threads: usize) -> Subject<Cpu<Threads>> {
    let isa = isa.min(Isa::detect());
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

/// Long rows, and more of them than any block has: each is what it is alone.
#[test]
fn a_row_of_a_large_product_does_not_depend_on_the_others() {
    const COLUMNS: usize = 2100;
    const OUTPUTS: usize = 100;
    let value = |i: usize| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5;
    for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
        let mut backend = cpu(isa, 2).alone();
        let read = |range: Range<usize>, to: &mut [bf16]| {
            to.iter_mut().zip(range).for_each(|(w, i)| *w = bf16::from_f32(value(i)));
        };
        let weight = backend.matrix(OUTPUTS, COLUMNS, &read).expect("room for a weight");
        let linear = Linear { weight, bias: None };
        let mut product = |rows: Range<usize>| {
            let mut x = backend.tensor(rows.len(), COLUMNS).expect("room for a tensor");
            let mut y = backend.tensor(rows.len(), OUTPUTS).expect("room for a tensor");
            let values: Vec<f32> = (rows.start * COLUMNS..rows.end * COLUMNS).map(|i| value(3 * i + 1)).collect();
            backend.write(&mut x, &values).expect("write");
            y.set_rows(rows.len());
            backend.linear(&x, &linear, &mut y).expect("linear");
            backend.read(&y).expect("read")
        };
        let all = product(0..300);
        // Every number of rows up to four groups, and some rows from within.
        let batches = (1..=64).map(|rows| 300 - rows..300);
        for rows in batches.chain([0..1, 16..32, 31..64, 100..149, 0..128, 5..250]) {
            let expected = &all[rows.start * OUTPUTS..rows.end * OUTPUTS];
            assert!(product(rows.clone()) == expected, "{isa}: rows {rows:?}");
        }
    }
}

#[test]
fn an_unsupported_instruction_set_is_refused_with_what_there_is() {
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.supported()) {
        let options = CpuOptions { threads: 1, isa: Some(isa), cores: None };
        let error = Cpu::new(&options, backend::Alone).err().expect("no such instructions").to_string();
        assert!(error.contains(&isa.to_string()) && error.contains(&Isa::detect().to_string()), "{error}");
    }
}
