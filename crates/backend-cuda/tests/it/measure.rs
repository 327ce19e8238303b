//! What kernels are measured by.

use crate::standin::install;
use backend::SingleRank;
use backend_cuda::{Cuda, CudaOptions, PlainRead};

#[test]
fn all_of_the_memory_is_read() {
    install();
    let mut cuda = Cuda::new(&CudaOptions::new(0), Box::new(SingleRank)).expect("a device");
    // Neither a multiple of what the grid takes at a time, nor of the words.
    let mut memory = PlainRead::new(&mut cuda, (5 << 20) + 256).expect("room");
    let words: Vec<u32> = (0..1001u32).map(|i| i.wrapping_mul(2_654_435_761) ^ 0x5bd1_e995).collect();
    memory.fill(&mut cuda, &words).expect("fill");
    let time = cuda.time(|cuda| memory.run(cuda)).expect("run");
    assert!(time.as_nanos() > 0);
    let count = memory.bytes() / size_of::<u32>();
    let expected = words.iter().cycle().take(count).fold(0, |fold, word| fold ^ word);
    assert_eq!(memory.fold(&mut cuda).expect("fold"), expected);
}
