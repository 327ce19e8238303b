//! What a run found, as JSON and as Markdown.

use crate::parts::Part;
use anyhow::Result;
use backend_cuda::{GpuInfo, discover};
use serde::Serialize;
use std::fmt::Write as _;
use std::process::Command;

/// What a run found.
#[derive(Serialize)]
pub struct Report {
    tiny: bool,
    gpu_name: String,
    gpu_count: usize,
    compute_capability: String,
    multiprocessors: usize,
    memory_bytes: u64,
    driver_cuda: String,
    /// What nvidia-smi says, where it is: driver, clocks, power limit, ECC.
    #[serde(skip_serializing_if = "Option::is_none")]
    nvidia_smi: Option<String>,
    version: &'static str,
    parts: Vec<Part>,
}

const QUERY: &str = "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem,power.limit,ecc.mode.current";

impl Report {
    /// Of these parts, on this machine.
    pub fn new(tiny: bool, parts: Vec<Part>) -> Result<Self> {
        let gpus = discover()?;
        let GpuInfo { name, capability, multiprocessors, memory_bytes, .. } = gpus.all[0].clone();
        let asked = Command::new("nvidia-smi").args(["-i", "0", QUERY, "--format=csv"]).output();
        let said = asked.ok().filter(|output| output.status.success());
        Ok(Self {
            tiny,
            gpu_name: name,
            gpu_count: gpus.all.len(),
            compute_capability: format!("{}.{}", capability.0, capability.1),
            multiprocessors,
            memory_bytes,
            driver_cuda: format!("{}.{}", gpus.driver_version / 1000, gpus.driver_version % 1000 / 10),
            nvidia_smi: said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            version: env!("CARGO_PKG_VERSION"),
            parts,
        })
    }

    /// Whether no part failed.
    pub fn all_passed(&self) -> bool {
        self.parts.iter().all(|part| part.failed.is_none())
    }

    /// As JSON.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "# GPU check: {}\n\n{} of them, compute capability {}, {} multiprocessors, {:.1} GB; driver with CUDA {}; \
             Peregrine {}.\n",
            self.gpu_name,
            self.gpu_count,
            self.compute_capability,
            self.multiprocessors,
            self.memory_bytes as f64 / 1e9,
            self.driver_cuda,
            self.version
        );
        if let Some(said) = &self.nvidia_smi {
            text += &format!("\n```\n{said}\n```\n");
        }
        if self.tiny {
            text += "\nTiny shapes, to try the program: these times mean nothing.\n";
        }
        text += "\n## Checks\n\n| part | | seconds | |\n|---|---|---|---|\n";
        for Part { name, seconds, failed, found } in &self.parts {
            let (passed, what) = failed.as_ref().map_or(("passed", &found.checked), |failed| ("**FAILED**", failed));
            line(&mut text, &[name, passed, &format!("{seconds:.1}"), &what.replace('|', "/")]);
        }
        self.kernels(&mut text);
        self.ranks(&mut text);
        text
    }

    fn kernels(&self, text: &mut String) {
        *text += "\n## Launches of a layer\n\nOne launch, by the device's clock; % of a plain read in the same run.\n\n\
                  | shape | launch | rows | µs | MB | GB/s | % | TFLOP/s |\n|---|---|---|---|---|---|---|---|\n";
        for part in &self.parts {
            for row in &part.found.kernels {
                let number = |number: f64| format!("{number:.1}");
                let mb = number(row.bytes as f64 / 1e6);
                let [us, gbps, percent] = [row.us, row.gbps, row.percent_of_plain_read].map(number);
                let tflops = number(row.tflops);
                line(text, &[shape(part), &row.launch, &row.rows.to_string(), &us, &mb, &gbps, &percent, &tflops]);
            }
        }
    }

    fn ranks(&self, text: &mut String) {
        *text += "\n## One rank\n\nRandom weights, no other ranks to wait for: milliseconds of a step.\n\n\
                  | shape | step | size | ms | GB | % of plain read | TFLOP/s |\n|---|---|---|---|---|---|---|\n";
        for part in &self.parts {
            for row in &part.found.ranks {
                let (ms, gb) = (format!("{:.2}", row.ms), format!("{:.2}", row.bytes as f64 / 1e9));
                let [percent, tflops] = [row.percent_of_plain_read, row.tflops].map(|number| format!("{number:.1}"));
                line(text, &[shape(part), &row.step, &row.size.to_string(), &ms, &gb, &percent, &tflops]);
            }
        }
    }
}

fn shape(part: &Part) -> &str {
    part.name.split_once('/').map_or(&*part.name, |(_, shape)| shape)
}

fn line(text: &mut String, cells: &[&str]) {
    writeln!(text, "| {} |", cells.join(" | ")).expect("a string can always be written to");
}
