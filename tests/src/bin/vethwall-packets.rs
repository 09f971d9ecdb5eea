//! Random packets through the kernel programs, for as long as one likes: see [`vethwall_tests::fuzz`].
//!
//! `vethwall-packets --packets 10000000` tries that many; `vethwall-packets FILE...` tries files again.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use vethwall_tests::{
    fuzz::{Bench, Case, run},
    sandbox,
};

/// Random packets through the kernel programs.
#[derive(Parser)]
struct Arguments {
    /// How many packets.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Other programs than those built in, with their feature `harness`: to see whether a mistake would be noticed.
    #[arg(long)]
    object: Option<PathBuf>,
    /// How many differences end the run.
    #[arg(long, default_value_t = 1)]
    most: usize,
    /// Where to keep the cases that differ.
    #[arg(long, default_value = ".")]
    keep: PathBuf,
    /// Cases to try again, and to write with what became of each packet; no random ones then.
    files: Vec<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let object = arguments.object.as_ref().map(fs::read).transpose()?;
    sandbox::run(|| {
        let mut bench = Bench::new(object)?;
        if !arguments.files.is_empty() {
            return again(&mut bench, &arguments.files);
        }
        let differences = run(&mut bench, arguments.packets, arguments.seed, arguments.most)?;
        for (number, (case, found)) in differences.iter().enumerate() {
            let path = arguments.keep.join(format!("difference-{number}.json"));
            println!("{}: {}: {found}", path.display(), case.about);
            fs::write(&path, serde_json::to_string_pretty(case)?)?;
        }
        Ok(ExitCode::from(u8::from(!differences.is_empty())))
    })
}

fn again(bench: &mut Bench, files: &[PathBuf]) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in files {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let mut case: Case = serde_json::from_str(&text)?;
        match bench.replay(&mut case)? {
            None => println!("{}: no difference", path.display()),
            Some(found) => {
                println!("{}: {found}", path.display());
                code = ExitCode::FAILURE;
            }
        }
        fs::write(path, serde_json::to_string_pretty(&case)? + "\n")?;
    }
    Ok(code)
}
