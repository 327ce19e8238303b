//! Kinds of GPUs: memory, and published speeds.

/// Source of what products of many rows reach on an A100.
pub const A100_TABLE: &str = "fitted to the bf16 table of ai-dynamo/aiconfigurator, a100_sxm, trtllm 1.0.0";

/// A kind of GPU, with how those of one node are connected.
pub struct Gpu {
    /// Its name, with the size under which it is sold.
    pub name: &'static str,
    /// What a process can allocate in MiB: the total that the driver reports, which lacks what the hardware and the
    /// driver keep. It differs by some 0.2 GiB between drivers; this is the smallest total seen in published
    /// out-of-memory reports (in GiB, beside each line), rounded down to whole 100 MiB.
    pub(crate) usable_mib: u64,
    /// The memory's rate by the vendor's specification, in GB/s.
    pub spec_gbps: f64,
    /// The rate of a kernel that only reads, over much more than the L2 cache holds, in GB/s.
    pub plain_read_gbps: f64,
    /// Where that is from.
    pub plain_read_source: &'static str,
    /// Dense bf16 products with sums in f32, by the vendor's specification, in TFLOP/s.
    pub tensor_tflops: f64,
    /// Of that, what products of many rows reach.
    pub tensor_percent: f64,
    /// Where that is from.
    pub tensor_percent_source: &'static str,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory of a multiprocessor in KiB.
    pub shared_kib: usize,
    /// Their clock under load.
    pub ghz: f64,
    /// How the GPUs of a node are connected.
    pub link: Link,
}

impl Gpu {
    /// Whether a driver means this kind by `name`, as in `NVIDIA A100-SXM4-80GB`. Cards for PCI Express lack NVLink's switches.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let words: Vec<&str> = name.split([' ', '-']).collect();
        let (family, size) = self.name.split_once('-').expect("a kind has a size");
        let is_size = words.iter().filter(|word| word.ends_with("GB")).all(|word| *word == size);
        let is_card = words.iter().any(|word| word.eq_ignore_ascii_case("PCIe"));
        words.contains(&family) && is_size && !(is_card && matches!(self.link, Link::NvLink { .. }))
    }
}

/// How the GPUs of a node reach each other's memory.
pub enum Link {
    /// Over NVLink and switches.
    NvLink {
        /// Into one GPU, in GB/s, as far as kernels get it.
        gbps: f64,
        /// Bytes of an array, and microseconds in which 8 GPUs sum it up, within a CUDA graph.
        all_reduce: &'static [(u64, f64)],
        /// Where that is from.
        source: &'static str,
    },
    /// Over PCI Express: no table was found.
    Pcie,
}

/// For PCI Express: an all-reduce of nothing. NCCL takes 40 to 42 µs for 8 bytes over 8 RTX 4090 (nccl issue 1530).
pub const PCIE_LATENCY_US: f64 = 40.0;
/// For PCI Express: into one GPU, where all send at once. A guess below the 12.5 GB/s of half a Gen4 x16.
pub const PCIE_GBPS: f64 = 10.0;

/// What an H100 came to in products of 2,047 rows: 63 to 77 %. Its clock falls under such load.
const H100_PERCENT: (f64, &str) = (72.0, "what an H100 took (docs/gpu.md)");

const GPU_STREAM: &str = "te42kyfo/gpu-benches, gpu-stream";

// The lowest of published times: custom kernels up to 8 MB, NCCL beyond.
const NVLINK_A100: Link = Link::NvLink {
    gbps: 250.0,
    all_reduce: &[
        (256, 5.8),
        (4 << 10, 6.3),
        (16 << 10, 6.7),
        (32 << 10, 7.1),
        (64 << 10, 8.45),
        (128 << 10, 11.3),
        (256 << 10, 17.2),
        (512 << 10, 19.4),
        (1 << 20, 21.6),
        (2 << 20, 28.4),
        (4 << 20, 45.0),
        (8 << 20, 79.0),
        (16 << 20, 216.0),
        (32 << 20, 366.0),
        (64 << 20, 595.0),
        (128 << 20, 1164.0),
        (256 << 20, 2168.0),
    ],
    source: "ai-dynamo/aiconfigurator, systems/data/a100_sxm/comm: custom kernels in graphs, from 16 MiB on NCCL",
};
const NVLINK_H100: Link = Link::NvLink {
    gbps: 370.0,
    all_reduce: &[
        (8 << 10, 4.9),
        (16 << 10, 5.2),
        (32 << 10, 5.4),
        (64 << 10, 6.3),
        (128 << 10, 7.7),
        (512 << 10, 15.6),
        (2 << 20, 20.9),
        (8 << 20, 77.0),
        (16 << 20, 122.0),
    ],
    source: "ai-dynamo/aiconfigurator, systems/data/h100_sxm/comm: custom kernels in graphs, from 8 MiB on NCCL",
};

pub(crate) const A10G: Gpu = Gpu {
    name: "A10G-24GB",
    usable_mib: 22_400, // 21.96
    spec_gbps: 600.0,
    plain_read_gbps: 585.0,
    plain_read_source: "not measured: 600 GB/s by the 679/696 that gpu-benches measured on an A40, of the same family",
    tensor_tflops: 70.0,
    tensor_percent: 82.0,
    tensor_percent_source: A100_TABLE,
    multiprocessors: 80,
    shared_kib: 100,
    ghz: 1.71,
    link: Link::Pcie,
};
pub(crate) const A100_40: Gpu = Gpu {
    name: "A100-40GB",
    usable_mib: 40_300, // 39.38
    spec_gbps: 1555.0,
    plain_read_gbps: 1490.0,
    plain_read_source: GPU_STREAM,
    tensor_tflops: 312.0,
    tensor_percent: 82.0,
    tensor_percent_source: A100_TABLE,
    multiprocessors: 108,
    shared_kib: 164,
    ghz: 1.41,
    link: NVLINK_A100,
};
pub(crate) const L40S: Gpu = Gpu {
    name: "L40S-48GB",
    usable_mib: 45_400, // 44.34
    spec_gbps: 864.0,
    plain_read_gbps: 844.0,
    plain_read_source: "te42kyfo/gpu-benches, gpu-stream, on an L40, which has the same memory",
    tensor_tflops: 362.0,
    tensor_percent: 82.0,
    tensor_percent_source: A100_TABLE,
    multiprocessors: 142,
    shared_kib: 100,
    ghz: 2.52,
    link: Link::Pcie,
};
pub(crate) const A100_80: Gpu = Gpu {
    name: "A100-80GB",
    usable_mib: 81_000, // 79.14
    spec_gbps: 2039.0,
    // Its other test, gpu-stream, comes to 1,769.
    plain_read_gbps: 1732.0,
    plain_read_source: "te42kyfo/gpu-benches, gpu-l2-cache, the largest set; gpu-stream comes to 1,769",
    tensor_tflops: 312.0,
    tensor_percent: 82.0,
    tensor_percent_source: A100_TABLE,
    multiprocessors: 108,
    shared_kib: 164,
    ghz: 1.41,
    link: NVLINK_A100,
};
pub(crate) const H100: Gpu = Gpu {
    name: "H100-80GB",
    usable_mib: 81_000, // 79.11
    spec_gbps: 3350.0,
    plain_read_gbps: 3043.0,
    plain_read_source: "measured by scripts/gpu-check",
    tensor_tflops: 989.0,
    tensor_percent: H100_PERCENT.0,
    tensor_percent_source: H100_PERCENT.1,
    multiprocessors: 132,
    shared_kib: 228,
    ghz: 1.83,
    link: NVLINK_H100,
};
pub(crate) const H200: Gpu = Gpu {
    name: "H200-141GB",
    usable_mib: 143_100, // 139.81
    spec_gbps: 4800.0,
    plain_read_gbps: 4300.0,
    plain_read_source: "a plain copy, read and write; gpu-stream reads at 3,888",
    tensor_tflops: 989.0,
    tensor_percent: H100_PERCENT.0,
    tensor_percent_source: H100_PERCENT.1,
    multiprocessors: 132,
    shared_kib: 228,
    ghz: 1.83,
    link: NVLINK_H100,
};

impl Link {
    /// Seconds in which `ranks` GPUs sum up an array of `bytes`. A table of 8 GPUs is taken for fewer, too: they need no
    /// more.
    #[must_use]
    pub fn all_reduce_seconds(&self, ranks: usize, bytes: u64) -> f64 {
        match self {
            _ if ranks == 1 => 0.0,
            Self::NvLink { all_reduce, .. } => interpolate(all_reduce, bytes) * 1e-6,
            Self::Pcie => {
                let moved = 2.0 * (ranks - 1) as f64 / ranks as f64 * bytes as f64;
                PCIE_LATENCY_US * 1e-6 + moved / (PCIE_GBPS * 1e9)
            }
        }
    }

    /// GB/s into one GPU from the others.
    #[must_use]
    pub fn gbps(&self) -> f64 {
        match self {
            Self::NvLink { gbps, .. } => *gbps,
            Self::Pcie => PCIE_GBPS,
        }
    }
}

/// Between two lines along a power law, the first below it; beyond the last in proportion.
fn interpolate(table: &[(u64, f64)], bytes: u64) -> f64 {
    let after = table.partition_point(|&(size, _)| size <= bytes);
    let (Some(&(low, low_us)), high) = (after.checked_sub(1).map(|index| &table[index]), table.get(after)) else {
        return table[0].1;
    };
    let Some(&(high, high_us)) = high else { return low_us * bytes as f64 / low as f64 };
    let weight = (bytes as f64 / low as f64).ln() / (high as f64 / low as f64).ln();
    low_us * (high_us / low_us).powf(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_met_at_their_lines_and_between() {
        let us = |bytes| A100_80.link.all_reduce_seconds(8, bytes) * 1e6;
        assert!((us(32 << 10) - 7.1).abs() < 1e-9 && (us(1) - 5.8).abs() < 1e-9);
        assert!((7.1..8.45).contains(&us(48 << 10)));
        assert!((us(512 << 20) - 2.0 * 2168.0).abs() < 1e-6);
        assert_eq!(A100_80.link.all_reduce_seconds(1, 1 << 20), 0.0);
    }

    #[test]
    fn drivers_names_are_known() {
        for (name, gpu) in [
            ("NVIDIA A100-SXM4-80GB", &A100_80),
            ("NVIDIA A100-SXM4-40GB", &A100_40),
            ("NVIDIA A10G", &A10G),
            ("NVIDIA L40S", &L40S),
            ("NVIDIA H100 80GB HBM3", &H100),
            ("NVIDIA H200", &H200),
        ] {
            for other in [&A10G, &A100_40, &L40S, &A100_80, &H100, &H200] {
                assert_eq!(other.is_called(name), std::ptr::eq(other, gpu), "{name} and {}", other.name);
            }
        }
        assert!(!A100_80.is_called("NVIDIA A100 80GB PCIe") && !H100.is_called("NVIDIA H100 PCIe"));
    }

    #[test]
    fn tables_ascend() {
        for gpu in [&A10G, &A100_40, &L40S, &A100_80, &H100, &H200] {
            assert!(gpu.plain_read_gbps < gpu.spec_gbps, "{}", gpu.name);
            let Link::NvLink { all_reduce, .. } = &gpu.link else { continue };
            assert!(all_reduce.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{}", gpu.name);
        }
    }
}
