//! The CPU backend against the reference, with every instruction set and several threads.

use backend::conformance::{MakeRank, Subject, same_bits};
use backend::{Threads, conformance_suite};
use backend_cpu::{Cpu, CpuOptions, Isa};

/// Ranks with `threads` threads each. A processor without `isa` is tested with the best that it has.
fn cpu(isa: Isa, threads: usize) -> Subject<Cpu<Threads>> {
    let isa = isa.min(Isa::detect());
    let options = CpuOptions { threads, isa: Some(isa), pin: None };
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
        for threads in [2, 3] {
            same_bits(&cpu(isa, 1), &cpu(isa, threads));
        }
    }
}

#[test]
fn an_unsupported_instruction_set_is_refused_with_what_there_is() {
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.supported()) {
        let options = CpuOptions { threads: 1, isa: Some(isa), pin: None };
        let error = Cpu::new(&options, backend::Alone).err().expect("no such instructions").to_string();
        assert!(error.contains(&isa.to_string()) && error.contains(&Isa::detect().to_string()), "{error}");
    }
}
