//! What must not go unnoticed.

use super::{FaultKind, Kernel};

#[track_caller]
fn fault(body: &str, kind: FaultKind, thread: u32, text: &str) {
    let fault = Kernel::new(body).grid(1, 64).fault();
    let what = fault.to_string();
    assert_eq!((fault.kind, fault.thread), (kind, [thread, 0, 0]), "{what}");
    assert!(fault.text.contains(text) && what.starts_with("k: block [0, 0, 0]"), "{what}");
}

#[test]
fn accesses_outside_of_memory() {
    fault("st.global.u32 [%rd4+8], %r1;", FaultKind::Address, 62, "st.global.u32 [%rd4+8]");
    fault("ld.global.u32 %r2, [%rd1+-4];", FaultKind::Address, 0, "ld.global.u32");
    fault("mov.u64 %rd6, 0; ld.global.u32 %r2, [%rd6];", FaultKind::Address, 0, "ld.global.u32 %r2, [%rd6]");
    fault(
        ".shared .align 4 .b8 b[128]; shl.b32 %r3, %r1, 2; ld.shared.u32 %r2, [%r3];",
        FaultKind::Address,
        32,
        "ld.shared",
    );
    fault(".local .align 4 .b8 b[16]; ld.local.u32 %r2, [b+16];", FaultKind::Address, 0, "ld.local");
    fault("atom.global.add.u32 %r2, [%rd4+8], 1;", FaultKind::Address, 62, "atom.global");
}

#[test]
fn accesses_that_are_not_aligned() {
    fault("ld.global.u16 %rs1, [%rd1+1];", FaultKind::Misaligned, 0, "ld.global.u16");
    fault("ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd2+8];", FaultKind::Misaligned, 0, "v4");
    fault(
        "setp.eq.u32 %p1, %r1, 40; add.s64 %rd6, %rd5, 2; selp.b64 %rd6, %rd6, %rd5, %p1; ld.global.u32 %r2, [%rd6];",
        FaultKind::Misaligned,
        40,
        "ld",
    );
    fault(
        ".shared .align 16 .b8 b[64]; cp.async.cg.shared.global [b+8], [%rd2], 16;",
        FaultKind::Misaligned,
        0,
        "cp.async",
    );
}

#[test]
fn lanes_that_do_not_come() {
    let sync = FaultKind::Synchronization;
    let in_branch = |op: &str| format!("setp.eq.u32 %p1, %r1, 31; @%p1 bra $SKIP; {op} $SKIP: bar.sync 0;");
    fault(&in_branch("shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;"), sync, 0, "shfl");
    fault(&in_branch("bar.warp.sync -1;"), sync, 0, "bar.warp.sync");
    fault("shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffff;", sync, 16, "shfl");
    fault(
        &in_branch(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f1, %f2, %f3, %f4};",
        ),
        sync,
        0,
        "mma",
    );
}

#[test]
fn a_barrier_in_divergent_code() {
    let body = "setp.eq.u32 %p1, %r1, 3; @%p1 bra $ELSE; bar.sync 0; bra $END; $ELSE: bar.sync 0; $END: st.global.u32 [%rd4], 1;";
    fault(body, FaultKind::Synchronization, 0, "bar.sync 0");
}

#[test]
fn warps_that_wait_at_different_barriers() {
    let body = "setp.lt.u32 %p1, %r1, 32; @%p1 bra $A; bar.sync 1; bra $END; $A: bar.sync 2; $END:";
    fault(body, FaultKind::Synchronization, 0, "bar.sync 2");
    fault("bar.sync 1, 96;", FaultKind::Synchronization, 0, "");
    fault("bar.sync 0, 33;", FaultKind::Synchronization, 0, "");
}

#[test]
fn a_trap() {
    fault("setp.eq.u32 %p1, %r1, 5; @%p1 trap;", FaultKind::Trap, 5, "trap");
}
