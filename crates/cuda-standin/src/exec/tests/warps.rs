//! What the lanes of a warp do together.

use super::{Kernel, lanes, value, values_of};
use half::bf16;

#[test]
fn shuffles() {
    for (shfl, expected) in [
        ("shfl.sync.bfly.b32 %r2, %r1, 5, 31, -1;", values_of(|lane| lane ^ 5)),
        ("shfl.sync.idx.b32 %r2, %r1, 7, 31, -1;", values_of(|_| 7)),
        ("shfl.sync.down.b32 %r2, %r1, 4, 31, -1;", values_of(|lane| if lane < 28 { lane + 4 } else { lane })),
        ("shfl.sync.up.b32 %r2, %r1, 4, 0, -1;", values_of(|lane| if lane >= 4 { lane - 4 } else { lane })),
        // Segments of eight lanes.
        ("shfl.sync.idx.b32 %r2, %r1, 3, 0x181f, -1;", values_of(|lane| lane & !7 | 3)),
        ("shfl.sync.down.b32 %r2, %r1, 4, 0x181f, -1;", values_of(|lane| if lane & 7 < 4 { lane + 4 } else { lane })),
    ] {
        assert_eq!(lanes(shfl), expected, "{shfl}");
    }
    let in_range = lanes("shfl.sync.down.b32 %r3|%p1, %r1, 4, 31, -1; selp.u32 %r2, 1, 0, %p1;");
    assert_eq!(in_range, values_of(|lane| u32::from(lane < 28)));
}

#[test]
fn votes_and_reductions() {
    let odd = "and.b32 %r3, %r1, 1; setp.eq.u32 %p1, %r3, 1;";
    assert_eq!(value(&format!("{odd} vote.sync.ballot.b32 %r2, %p1, -1;")), 0xaaaa_aaaa);
    for (vote, expected) in [("all", 0), ("any", 1), ("uni", 0)] {
        assert_eq!(value(&format!("{odd} vote.sync.{vote}.pred %p2, %p1, -1; selp.u32 %r2, 1, 0, %p2;")), expected);
    }
    for (redux, expected) in [("add.s32", 31 * 16), ("max.u32", 31), ("min.s32", 0), ("or.b32", 31), ("and.b32", 0)] {
        assert_eq!(value(&format!("redux.sync.{redux} %r2, %r1, -1;")), expected, "{redux}");
    }
    assert_eq!(lanes("shr.u32 %r3, %r1, 4; match.any.sync.b32 %r2, %r3, -1;")[16], 0xffff_0000);
    assert_eq!(value("activemask.b32 %r2;"), u32::MAX);
}

#[test]
fn lanes_meet_at_a_shuffle_after_a_branch() {
    let body =
        "setp.lt.u32 %p1, %r1, 16; mov.u32 %r3, 1; @%p1 bra $A; mov.u32 %r3, 2; bra.uni $B; $A: add.s32 %r3, %r3, 10;
        $B: shfl.sync.bfly.b32 %r2, %r3, 16, 31, -1;";
    assert_eq!(lanes(body), values_of(|lane| if lane < 16 { 2 } else { 11 }));
}

#[test]
fn halves_of_a_warp_shuffle_apart() {
    let body = "setp.lt.u32 %p1, %r1, 16; @%p1 bra $A; shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0xffff0000; bra.uni $B;
        $A: shfl.sync.bfly.b32 %r2, %r1, 2, 31, 0x0000ffff; $B: bar.warp.sync -1;";
    assert_eq!(lanes(body), values_of(|lane| if lane < 16 { lane ^ 2 } else { lane ^ 1 }));
}

/// Fragments of matrices whose elements are small integers, as the PTX manual lays them out.
#[test]
fn a_matrix_product() {
    let a = |r: usize, k: usize| (r * 3 + k) as f32 % 7.0 - 3.0;
    let b = |k: usize, n: usize| (k * 5 + n * 2) as f32 % 5.0 - 2.0;
    let pair = |low: f32, high: f32| {
        u32::from(bf16::from_f32(high).to_bits()) << 16 | u32::from(bf16::from_f32(low).to_bits())
    };
    let mut input = vec![0; 32 * 6];
    for lane in 0..32 {
        let (q, t) = (lane / 4, lane % 4 * 2);
        for (nth, (r, k)) in [(q, t), (q + 8, t), (q, t + 8), (q + 8, t + 8)].into_iter().enumerate() {
            input[32 * nth + lane] = pair(a(r, k), a(r, k + 1));
        }
        for (nth, k) in [t, t + 8].into_iter().enumerate() {
            input[32 * (4 + nth) + lane] = pair(b(k, q), b(k + 1, q));
        }
    }
    let body = "ld.global.u32 %r10, [%rd5]; ld.global.u32 %r11, [%rd5+128]; ld.global.u32 %r12, [%rd5+256];
        ld.global.u32 %r13, [%rd5+384]; ld.global.u32 %r14, [%rd5+512]; ld.global.u32 %r15, [%rd5+640];
        mov.f32 %f1, 0f3F800000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f1, %f2, %f3, %f4};
        st.global.f32 [%rd4], %f1; st.global.f32 [%rd4+128], %f2; st.global.f32 [%rd4+256], %f3; st.global.f32 [%rd4+384], %f4;";
    let mut kernel = Kernel::new(body).input(input);
    kernel.out_words = 128;
    let out = kernel.run();
    for lane in 0..32 {
        let (q, t) = (lane / 4, lane % 4 * 2);
        for (nth, (r, n)) in [(q, t), (q, t + 1), (q + 8, t), (q + 8, t + 1)].into_iter().enumerate() {
            let expected = 1.0 + (0..16).map(|k| a(r, k) * b(k, n)).sum::<f32>();
            assert_eq!(f32::from_bits(out[32 * nth + lane]), expected, "row {r} column {n}");
        }
    }
}

#[test]
fn matrices_are_loaded_from_shared_memory() {
    let load = |suffix: &str| {
        lanes(&format!(
            ".shared .align 16 .b8 buffer[512]; mov.u32 %r3, buffer; shl.b32 %r4, %r1, 2; add.s32 %r5, %r3, %r4;
             shl.b32 %r6, %r1, 1; add.s32 %r7, %r6, 1; shl.b32 %r7, %r7, 16; or.b32 %r8, %r6, %r7; st.shared.u32 [%r5], %r8;
             bar.sync 0; and.b32 %r9, %r1, 7; shl.b32 %r9, %r9, 4; add.s32 %r9, %r3, %r9;
             ldmatrix.sync.aligned.m8n8.x1{suffix}.shared.b16 {{%r2}}, [%r9];"
        ))
    };
    // Element (r, c) is 8 r + c; lane l has (l / 4, 2 (l % 4)) and the one beside it, or below it.
    let element = |r: u32, c: u32| 8 * r + c;
    assert_eq!(load(""), values_of(|l| element(l / 4, l % 4 * 2) | element(l / 4, l % 4 * 2 + 1) << 16));
    assert_eq!(load(".trans"), values_of(|l| element(l % 4 * 2, l / 4) | element(l % 4 * 2 + 1, l / 4) << 16));
}

#[test]
fn barriers_reduce_over_the_block() {
    let kernel = |red: &str| {
        let body = format!("setp.lt.u32 %p1, %r1, 40; {red} st.global.u32 [%rd4], %r2;");
        Kernel::new(&body).grid(1, 64).run()[63]
    };
    assert_eq!(kernel("bar.red.popc.u32 %r2, 0, %p1;"), 40);
    assert_eq!(kernel("bar.red.and.pred %p2, 0, %p1; selp.u32 %r2, 1, 0, %p2;"), 0);
    assert_eq!(kernel("bar.red.or.pred %p2, 0, %p1; selp.u32 %r2, 1, 0, %p2;"), 1);
}
