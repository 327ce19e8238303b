//! Warps and blocks that wait for one another.

use super::{Kernel, LaunchError};

/// Every thread's number, turned around by way of shared memory.
const REVERSE: &str = ".shared .align 4 .b8 buffer[1024];
    mov.u32 %r3, buffer; shl.b32 %r4, %r1, 2; add.s32 %r5, %r3, %r4; st.shared.u32 [%r5], %r1; bar.sync 0;
    mov.u32 %r6, %ntid.x; sub.s32 %r6, %r6, 1; sub.s32 %r6, %r6, %r1; shl.b32 %r6, %r6, 2; add.s32 %r6, %r6, %r3;
    ld.shared.u32 %r2, [%r6]; st.global.u32 [%rd4], %r2;";

#[test]
fn a_barrier_holds_in_any_order_of_warps() {
    for seed in 0..20 {
        let mut kernel = Kernel::new(REVERSE).grid(3, 256);
        kernel.seed = seed;
        let out = kernel.run();
        assert!(out.iter().enumerate().all(|(nth, value)| *value as usize == 255 - nth % 256), "seed {seed}");
    }
}

#[test]
fn a_barrier_that_is_missing_shows() {
    let broken = REVERSE.replace("bar.sync 0;", "");
    assert!(Kernel::new(&broken).grid(1, 256).run().contains(&u32::MAX));
}

/// Warp 0 produces, and arrives; warp 1 waits for it.
#[test]
fn warps_hand_over_at_a_named_barrier() {
    let body = ".shared .align 4 .b8 box[4]; setp.lt.u32 %p1, %r1, 32; @%p1 bra $PRODUCE;
        bar.sync 1, 64; ld.shared.u32 %r2, [box]; st.global.u32 [%rd4], %r2; bra $END;
        $PRODUCE: st.shared.u32 [box], 42; membar.cta; bar.arrive 1, 64; $END:";
    for seed in 0..10 {
        let mut kernel = Kernel::new(body).grid(1, 64);
        kernel.seed = seed;
        assert_eq!(kernel.run()[63], 42, "seed {seed}");
    }
}

#[test]
fn warps_that_have_exited_are_not_waited_for() {
    let body = "setp.ge.u32 %p1, %r1, 32; @%p1 exit; bar.sync 0; st.global.u32 [%rd4], 1;";
    assert_eq!(Kernel::new(body).grid(1, 128).run()[..32], [1; 32]);
}

/// All blocks add one, and wait until all have. Word 0 of the output is the count.
const GRID_BARRIER: &str = "setp.ne.u32 %p1, %r1, 0; @%p1 bra $DONE; atom.acq_rel.gpu.global.add.u32 %r3, [%rd1], 1;
    mov.u32 %r4, %nctaid.x;
    $SPIN: ld.acquire.gpu.global.u32 %r3, [%rd1]; setp.lt.u32 %p2, %r3, %r4; @%p2 bra $SPIN; $DONE: bar.sync 0;";

#[test]
fn blocks_that_are_held_wait_for_one_another() {
    for threads in [1, 2, 3] {
        let mut kernel = Kernel::new(GRID_BARRIER).grid(16, 64);
        (kernel.threads, kernel.resident) = (threads, 16);
        assert_eq!(kernel.run()[0], 16);
    }
}

#[test]
fn a_grid_that_is_not_held_whole_cannot_meet() {
    let mut kernel = Kernel::new(GRID_BARRIER).grid(17, 64);
    kernel.resident = 16;
    let program = kernel.lower().unwrap();
    let memory = super::Buffers { out: vec![0; 17 * 32], input: vec![0] };
    let params: Vec<u8> = [super::range(&memory.out).start, 0].iter().flat_map(|at: &u64| at.to_le_bytes()).collect();
    let launch = super::Launch {
        program: &program,
        grid: kernel.grid,
        block: kernel.block,
        shared_bytes: 0,
        params: &params,
        memory: &memory,
        copies: kernel.copies,
        seed: 0,
        threads: 2,
        resident: 16,
        sms: 4,
        count: false,
        time_limit: Some(std::time::Duration::from_millis(200)),
    };
    let error = launch.run().unwrap_err();
    assert!(matches!(error, LaunchError::TimeLimit { started: 16, blocks: 17, .. }), "{error}");
}

#[test]
fn many_blocks_run_on_several_threads() {
    let mut kernel = Kernel::new(
        "mov.u32 %r2, 0; $L: add.s32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, 500; @%p1 bra $L; st.global.u32 [%rd4], %r2;",
    )
    .grid(200, 64);
    (kernel.threads, kernel.resident) = (3, 4);
    let out = kernel.run();
    assert!(out.iter().all(|value| *value == 500));
}
