//! How fast the ranks load a model that was cut for them, beside a plain read of the same files.
//!
//! `cargo bench -p runtime --bench cut_rate -- DIR`: loads the cut model of the folder DIR on CPUs, one thread for each rank, by
//! turns with as many threads that read the ranks' files from begin to end, and throw away what they read. At first the page cache
//! has forgotten the files before each turn, then it has them. Prints the rates, and the ratio.

use backend::SingleRank;
use backend_cpu::{Cpu, CpuOptions};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testkit::on_threads;
use weights::{Checkpoint, Manifest};
use worker::{LoadProgress, RankSpec};

const ROUNDS: usize = 3;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(dir) = arguments.next().map(PathBuf::from) else { return eprintln!("needed: the folder of a cut model") };
    let manifest = Manifest::read(&dir).expect("a manifest").expect("a cut model");
    let files: Vec<PathBuf> = manifest.ranks.iter().map(|rank| dir.join(&rank.file.name)).collect();
    let bytes: u64 = manifest.ranks.iter().map(|rank| rank.file.bytes).sum();
    for (state, is_cold) in [("from the disk", true), ("from the page cache", false)] {
        let mut ratios: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let times = [read as fn(&Path, &[PathBuf], usize), load].map(|work| {
                    files.iter().filter(|_| is_cold).for_each(|file| forget(file));
                    time(|| on_ranks(files.len(), |rank| work(&dir, &files, rank)))
                });
                let [plain, ours] = times.map(|took| bytes as f64 / 1e9 / took.as_secs_f64());
                println!("{state}: plain read {plain:.2} GB/s, load {ours:.2} GB/s, {:.2}", ours / plain);
                ours / plain
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!("{:.2} GB {state}; ratio, the median of {ROUNDS}: {:.2}", bytes as f64 / 1e9, ratios[ROUNDS / 2]);
    }
}

fn on_ranks(world: usize, work: impl Fn(usize) + Sync) {
    on_threads((0..world).collect(), |_, rank| work(rank));
}

fn time(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

/// Drops a file from the page cache.
fn forget(path: &Path) {
    let file = File::open(path).expect("a file");
    file.sync_all().expect("it is on the disk");
    fadvise(&file, 0, None, Advice::DontNeed).expect("the page cache forgets");
}

fn read(_: &Path, files: &[PathBuf], rank: usize) {
    let (mut file, mut buffer) = (File::open(&files[rank]).expect("a file"), vec![0; 1 << 20]);
    while file.read(&mut buffer).expect("bytes") > 0 {}
}

fn load(dir: &Path, files: &[PathBuf], rank: usize) {
    let spec = RankSpec {
        model_dir: dir.to_owned(),
        tied: Checkpoint::open(dir).expect("a model").config().tied,
        backend: String::new(),
        rank,
        world: files.len(),
        kv_blocks: 1,
        step_rows_max: 1,
        collective_limit: Duration::MAX,
        step_limit: Duration::MAX,
        threads: 1,
        isa: None,
    };
    let cpu = Cpu::new(&CpuOptions { threads: 1, isa: None, cores: None }, SingleRank).expect("a CPU");
    worker::load(cpu, &spec, &LoadProgress::new()).expect("it loads");
}
